"""Writes a bundle: builds the model, lowers it, and puts the four files in place in one step."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from device_runtime.bundle import FORMAT_VERSION, MANIFEST_NAME, Bundle, manifest_json
from device_runtime.errors import BundleError, OptionError
from device_runtime.zo.grid import choose_exponent, round_to_grid
from device_runtime.zo.layout import Layout
from export.lowering import Lowered, Progress, lower
from export.model import Network, network_of
from export.segments import initial_value
from export.source import DEFAULT_MODEL, Source, locate
from protos import bundle_pb2


@dataclass(frozen=True)
class Options:
    """What `cooperllm export` is asked for; units in the names, the rest in bundle.proto."""

    class_names: tuple[str, ...]
    model: str = DEFAULT_MODEL
    revision: str = ""
    pooling: str = "mean"
    rank: int = 8
    lora_alpha: float = 16.0
    target_modules: tuple[str, ...] = ("query", "value")
    segments: int | None = None
    batch_examples: int = 8
    max_tokens: int = 128
    pad_to_multiple_tokens: int = 8
    seed: int = 0
    precision: str = field(default="fp32")


def write_bundle(options: Options, folder: str | Path, progress: Progress = lambda step: None) -> Bundle:
    """Exports a bundle into `folder`, which appears whole or not at all.

    Raises:
        OptionError: an option makes no sense, or the folder holds something else.
        BundleError: the model cannot be exported; the message says why.
    """
    folder = Path(folder)
    _check(options, folder)
    source = locate(options.model, options.revision)
    progress("reading the weights")
    manifest = bundle_pb2.Manifest(format_version=FORMAT_VERSION, precision=options.precision)
    manifest.source.CopyFrom(_source_entry(source))
    manifest.family = str(source.config.get("model_type", ""))
    manifest.adapter.CopyFrom(
        bundle_pb2.AdapterKind(
            kind="lora", r=options.rank, lora_alpha=options.lora_alpha, target_modules=options.target_modules
        )
    )
    manifest.task.CopyFrom(
        bundle_pb2.TaskKind(
            kind="sequence_classification", pooling=options.pooling, class_names=options.class_names
        )
    )
    tokenizer, text = _tokenizer(source, options.max_tokens, options.pad_to_multiple_tokens)
    manifest.text.CopyFrom(text)
    network = network_of(manifest, source, options.segments)
    manifest.text.max_tokens = network.max_tokens
    if not any(network.shapes[:-1]):
        raise OptionError(
            f"no module is called {', '.join(options.target_modules)} here; see --target-modules"
        )
    layout, values = initial_adapter(network, options.seed)
    _fill_layout(manifest, layout)
    lowered = lower(network, layout, options.batch_examples, progress)
    _fill_chain(manifest, network, lowered, options.batch_examples)
    manifest.created_by = ", ".join(_versions())
    progress("writing the bundle")
    tensors = {t.name: values[t.span].reshape(t.shape) for t in layout.tensors}
    parts = {
        "program": ("program.pte", lowered.program),
        "adapter": ("adapter.safetensors", save(tensors)),
        "tokenizer": ("tokenizer.json", tokenizer),
    }
    return _place(folder, manifest, parts)


def initial_adapter(network: Network, seed: int) -> tuple[Layout, npt.NDArray[np.float32]]:
    """The layout with each tensor's grid exponent, and the adapter that training starts from, on that grid.

    Every tensor comes from its own stream of the seed: another cut into segments starts from the same values.
    """
    start: dict[tuple[int, str], npt.NDArray[np.float32]] = {}
    for k, shapes in enumerate(network.shapes):
        part = network.segment(k) if k < network.segments else network.head
        for name in shapes:
            stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
            start[k, name] = initial_value(part, name, np.random.default_rng([seed, stream]))
    layout = Layout.build(
        (name, segment, values.shape, choose_exponent(float(np.abs(values).max(initial=0.0))))
        for (segment, name), values in start.items()
    )
    vector = np.empty(layout.parameters, np.float32)
    for tensor in layout.tensors:
        vector[tensor.span] = round_to_grid(start[tensor.segment, tensor.name].reshape(-1), tensor.exponent)
    return layout, vector


def _check(options: Options, folder: Path) -> None:
    if options.precision != "fp32":
        raise OptionError(f"precision {options.precision!r} is not supported; supported: fp32")
    if len(set(options.class_names)) != len(options.class_names) or not all(options.class_names):
        raise OptionError("--classes: every class needs a name of its own")
    if options.rank < 1 or options.batch_examples < 1 or options.pad_to_multiple_tokens < 1:
        raise OptionError("--rank, --batch-examples and --pad-to-multiple-tokens must be at least 1")
    if options.max_tokens < 8 or options.max_tokens % options.pad_to_multiple_tokens:
        raise OptionError("--max-tokens must be at least 8 and a multiple of --pad-to-multiple-tokens")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"{folder}: there is something there already; choose another --out or remove it")


def _source_entry(source: Source) -> bundle_pb2.Source:
    return bundle_pb2.Source(
        model=source.model,
        revision=source.revision,
        weights_sha256=source.weights_sha256(),
        config_json=source.config_json,
    )


def _fill_layout(manifest: bundle_pb2.Manifest, layout: Layout) -> None:
    manifest.layout.parameters = layout.parameters
    manifest.layout.sha256 = layout.sha256()
    for tensor in layout.tensors:
        manifest.layout.tensors.add(
            name=tensor.name,
            segment=tensor.segment,
            shape=tensor.shape,
            offset=tensor.offset,
            grid_exponent=tensor.exponent,
        )


def _fill_chain(
    manifest: bundle_pb2.Manifest, network: Network, lowered: Lowered, batch_examples: int
) -> None:
    manifest.chain.CopyFrom(
        bundle_pb2.Chain(
            segments=network.segments,
            batch_examples=batch_examples,
            dynamic_tokens=True,
            hidden_size=network.hidden_size,
            methods=lowered.methods,
        )
    )


def _tokenizer(source: Source, max_tokens: int, multiple: int) -> tuple[bytes, bundle_pb2.Text]:
    """tokenizer.json without truncation and padding of its own (the manifest rules); and those rules."""
    from tokenizers import Tokenizer

    path = source.folder / "tokenizer.json"
    if not path.is_file():
        raise BundleError(
            f"{source.folder}: no tokenizer.json there; "
            "make it with AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings_path = source.folder / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(settings_path.read_text("utf-8")) if settings_path.is_file() else {}
    pad_token = settings.get("pad_token", "[PAD]")
    pad_token = pad_token.get("content") if isinstance(pad_token, dict) else pad_token
    pad_id = tokenizer.token_to_id(pad_token) if pad_token else None
    if pad_id is None:
        pad_id = source.config.get("pad_token_id") or 0
    text = bundle_pb2.Text(
        max_tokens=max_tokens,
        truncation_side=settings.get("truncation_side", "right"),
        padding_side=settings.get("padding_side", "right"),
        pad_id=pad_id,
        pad_to_multiple_tokens=multiple,
    )
    return tokenizer.to_str().encode(), text


def _versions() -> list[str]:
    try:
        own = metadata.version("cooperllm")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        own = "(not installed)"
    return [f"cooperllm {own}", *(f"{name} {metadata.version(name)}" for name in ("executorch", "torch"))]


def _place(folder: Path, manifest: bundle_pb2.Manifest, parts: dict[str, tuple[str, bytes]]) -> Bundle:
    """Writes everything beside the target, makes it durable, renames it, and opens it as any reader would."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for part, (name, data) in parts.items():
            entry = bundle_pb2.FileEntry(
                name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
            )
            manifest.files[part].CopyFrom(entry)
            _write(temporary / name, data)
        _write(temporary / MANIFEST_NAME, manifest_json(manifest))
        temporary.chmod(0o755)
        _sync_folder(temporary)
        temporary.rename(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise BundleError(f"{folder}: {error.strerror}; nothing was written there") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Bundle.open(folder)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
