"""Writes a bundle: builds the model, lowers it, and puts the four files in place in one step."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

from safetensors.numpy import save

from device_runtime.bundle import FORMAT_VERSION, MANIFEST_NAME, Bundle, file_sha256, manifest_json
from device_runtime.errors import BundleError, OptionError
from device_runtime.zo.layout import Layout
from export.adapters.kinds import adapter_kind
from export.fidelity import Reference, calibration_examples
from export.lowering import Lowered, Progress, lower
from export.model import Model, Network, network_of
from export.peft_import import read_adapter
from export.precision import check_precision
from export.source import DEFAULT_MODEL, Source, locate
from export.start import AdapterOptions, Start, adapter_entry, initial_adapter
from export.tasks.entry import TaskOptions, fill_task
from export.text import SourceTokenizer
from export.trials import AUTO, chosen
from protos import bundle_pb2

# Of a bundle: a file's name, and its bytes, what writes them, or a file to move.
Parts = dict[str, tuple[str, bytes | Callable[[BinaryIO], None] | Path]]


@dataclass(frozen=True, kw_only=True)
class Options(AdapterOptions):
    """What `cooperllm export` is asked for; units in the names, the rest in bundle.proto."""

    class_names: tuple[str, ...]
    model: str = DEFAULT_MODEL
    revision: str = ""
    task: str = "sequence_classification"
    pooling: str = ""
    template: str = ""
    label_words: tuple[str, ...] = ()
    segments: int | tuple[int, ...] | None = None  # K, or how many layers each holds
    batch_examples: int = 8
    max_tokens: int = 128
    pad_to_multiple_tokens: int = 8
    precision: str = "fp32"
    both_signs: bool = False
    calibration: Path | None = None
    fidelity_directions: int = 0


def write_bundle(
    options: Options,
    folder: str | Path,
    progress: Progress = lambda step: None,
    note: Progress = lambda line: None,
) -> Bundle:
    """Exports a bundle into `folder`, which appears whole or not at all.

    Args:
        options: what to export.
        folder: it must not exist yet, or be empty.
        progress: told what is being done, in a few words.
        note: told what the user should know of the result, a line each.

    Raises:
        OptionError: an option makes no sense, or the folder holds something else.
        BundleError: the model cannot be exported; the message says why.
    """
    folder = Path(folder)
    _check(options, folder)
    progress("reading the weights")
    manifest, network, start, tokenizer = describe(options, note)
    tensors = {t.name: start.values[t.span].reshape(t.shape) for t in start.layout.tensors}
    parts: Parts = {
        "adapter": ("adapter.safetensors", save(tensors)),
        "tokenizer": ("tokenizer.json", tokenizer.file()),
    }

    def attempt(precision: str, target: Path) -> Bundle:
        lowered = lower(
            network,
            start.layout,
            options.batch_examples,
            progress,
            precision,
            both_signs=options.both_signs,
        )
        manifest.precision = precision
        _fill_chain(manifest, network, lowered, options.batch_examples)
        progress("writing the bundle")
        return _place(target, manifest, {"program": ("program.pte", lowered.write), **parts})

    if options.calibration is None or not options.fidelity_directions:
        return attempt(options.precision, folder)
    examples = calibration_examples(options.calibration, options.class_names, options.batch_examples)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
        trial = chosen(
            options.precision,
            lambda name: attempt(name, Path(work) / name),
            lambda bundle: Reference(
                Model(network, start.layout), bundle, examples, options.fidelity_directions
            ),
            progress,
            note,
        )
        manifest.CopyFrom(trial.bundle.manifest)
        manifest.fidelity.CopyFrom(trial.fidelity)
        return _place(folder, manifest, {"program": ("program.pte", trial.bundle.program_path), **parts})


def describe(
    options: Options, note: Progress = lambda line: None
) -> tuple[bundle_pb2.Manifest, Network, Start, SourceTokenizer]:
    """Everything about a bundle but its program: the manifest without chain and files, and what it describes.

    Raises:
        OptionError: an option makes no sense.
        BundleError: the model cannot be exported; the message says why.
    """
    source = locate(options.model, options.revision)
    manifest = bundle_pb2.Manifest(format_version=FORMAT_VERSION, precision=options.precision)
    manifest.created_by = ", ".join(_versions())
    manifest.source.CopyFrom(_source_entry(source))
    manifest.family = str(source.config.get("model_type", ""))
    tokenizer = SourceTokenizer.of(source)
    manifest.text.CopyFrom(tokenizer.rules(options.max_tokens, options.pad_to_multiple_tokens))
    asked = (options.task, options.class_names, options.pooling, options.template, options.label_words)
    fill_task(manifest, TaskOptions(*asked), tokenizer)
    imported = read_adapter(options.adapter_from) if options.adapter_from else None
    manifest.adapter.CopyFrom(adapter_entry(options, manifest, source, imported))
    if options.both_signs and not adapter_kind(manifest.adapter).pairs:
        raise OptionError(
            f"--both-signs: not with --adapter {options.adapter}; lora, lora_fa and bottleneck have it"
        )
    network = network_of(manifest, source, options.segments)
    manifest.text.max_tokens = network.max_tokens
    if options.adapter != "head" and not any(network.shapes[:-1]):
        raise OptionError(f"--adapter {options.adapter}: it trains nothing that this model's blocks have")
    start = initial_adapter(network, options.seed, imported)
    if imported is not None:
        note(f"{imported.path}: rounded to the grid once, largest change {start.change:.3g}")
    for name, factor in start.frozen.items():
        manifest.adapter.frozen.add(name=name, shape=factor.shape)
    _fill_layout(manifest, start.layout)
    return manifest, network, start, tokenizer


def _check(options: Options, folder: Path) -> None:
    if options.fidelity_directions < 0 or options.fidelity_directions == 1:
        raise OptionError("--fidelity-directions must be 0, for no measurement, or at least 2")
    measured = options.calibration is not None and options.fidelity_directions > 0
    if options.precision != AUTO or not measured:
        check_precision(options.precision)
    if options.batch_examples < 1 or options.pad_to_multiple_tokens < 1:
        raise OptionError("--batch-examples and --pad-to-multiple-tokens must be at least 1")
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
            head_tokens=network.head_tokens,
            vocabulary=network.vocabulary,
            methods=lowered.methods,
        )
    )


def _versions() -> list[str]:
    try:
        own = metadata.version("cooperllm")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        own = "(not installed)"
    return [f"cooperllm {own}", *(f"{name} {metadata.version(name)}" for name in ("executorch", "torch"))]


def _place(folder: Path, manifest: bundle_pb2.Manifest, parts: Parts) -> Bundle:
    """Writes everything beside the target, makes it durable, renames it, and opens it as any reader would."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for part, (name, data) in parts.items():
            path = temporary / name
            if isinstance(data, Path):
                data.rename(path)
            else:
                _write(path, data)
            entry = bundle_pb2.FileEntry(name=name, size_bytes=path.stat().st_size, sha256=file_sha256(path))
            manifest.files[part].CopyFrom(entry)
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


def _write(path: Path, data: bytes | Callable[[BinaryIO], None]) -> None:
    with path.open("wb") as file:
        if isinstance(data, bytes):
            file.write(data)
        else:
            data(file)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
