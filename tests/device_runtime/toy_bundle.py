"""A real bundle in miniature: the toy program of tests/golden, a tokenizer of 32 words, three classes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from tokenizers import Tokenizer, models, pre_tokenizers

from device_runtime.bundle import Bundle, manifest_json
from device_runtime.examples import Example
from device_runtime.zo.grid import round_to_grid
from device_runtime.zo.layout import Layout
from protos import bundle_pb2

GOLDEN = Path(__file__).parents[1] / "golden"
CLASSES = ("left", "right", "up")
NAMES = {"program": "program.pte", "adapter": "adapter.safetensors", "tokenizer": "tokenizer.json"}
HEAD = 2


def toy_adapter(layout: Layout, seed: int = 3) -> NDArray[np.float32]:
    """An adapter on the grid, all of it non-zero."""
    return round_to_grid(np.random.default_rng(seed).normal(scale=0.3, size=layout.parameters), 20)


def snapshot_bytes(layout: Layout, adapter: NDArray[np.float32]) -> bytes:
    """The adapter as .safetensors."""
    return save({tensor.name: adapter[tensor.span].reshape(tensor.shape) for tensor in layout.tensors})


def write_toy_bundle(folder: Path, format_version: int = 1, program: bytes | None = None) -> Path:
    """Writes the bundle; what is in it is the same every time. `program` stands in for the toy program."""
    folder.mkdir(parents=True)
    shape = json.loads((GOLDEN / "toy.json").read_text())
    layout = Layout.build([(t["name"], t["segment"], t["shape"], t["exponent"]) for t in shape["layout"]])
    words = {"[UNK]": 0} | {f"w{i}": i for i in range(1, shape["vocabulary"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    files = {
        "program": (GOLDEN / "toy.pte").read_bytes() if program is None else program,
        "adapter": snapshot_bytes(layout, toy_adapter(layout)),
        "tokenizer": tokenizer.to_str().encode(),
    }
    manifest = bundle_pb2.Manifest(format_version=format_version, family="toy", precision="fp32")
    manifest.task.kind = "sequence_classification"
    manifest.task.class_names.extend(CLASSES)
    manifest.text.max_tokens, manifest.text.pad_to_multiple_tokens = shape["max_tokens"], 4
    manifest.text.truncation_side = manifest.text.padding_side = "right"
    manifest.chain.segments, manifest.chain.batch_examples = shape["segments"], shape["batch_examples"]
    manifest.chain.hidden_size, manifest.chain.dynamic_tokens = shape["hidden_size"], True
    manifest.layout.parameters, manifest.layout.sha256 = layout.parameters, layout.sha256()
    for t in layout.tensors:
        manifest.layout.tensors.add(
            name=t.name, segment=t.segment, shape=t.shape, offset=t.offset, grid_exponent=t.exponent
        )
    for part, data in files.items():
        (folder / NAMES[part]).write_bytes(data)
        manifest.files[part].name, manifest.files[part].size_bytes = NAMES[part], len(data)
        manifest.files[part].sha256 = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_bytes(manifest_json(manifest))
    return folder


def open_toy_bundle(folder: Path) -> Bundle:
    """The bundle, written and checked."""
    return Bundle.open(write_toy_bundle(folder))


def toy_examples(count: int = 60, seed: int = 1) -> list[Example]:
    """Distinct texts of two to nine words; the class follows from the first word."""
    rng = np.random.default_rng(seed)
    texts: dict[str, str] = {}
    while len(texts) < count:
        words = rng.integers(1, 32, rng.integers(2, 10))
        texts[" ".join(f"w{word}" for word in words)] = CLASSES[int(words[0]) % 3]
    return [Example(text, label) for text, label in texts.items()]
