"""A bundle that passes every check but whose program does nothing: the cloud never runs one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from device_runtime.bundle import Bundle, manifest_json
from device_runtime.zo.layout import Layout
from protos import bundle_pb2

EXPONENT = 20


def small_layout() -> Layout:
    """Two segments and a head, 60 parameters, one tensor with an odd size."""
    return Layout.build(
        [
            ("layer.0.a", 0, (3, 5), EXPONENT),
            ("layer.0.b", 0, (5, 3), EXPONENT),
            ("layer.1.a", 1, (4, 4), EXPONENT),
            ("head.weight", 2, (2, 7), EXPONENT),
        ]
    )


def chain_layout() -> Layout:
    """The same with 220 parameters: of 60 a device discloses fewer scalars than there are segments."""
    return Layout.build(
        [
            ("layer.0.a", 0, (10, 10), EXPONENT),
            ("layer.1.a", 1, (8, 10), EXPONENT),
            ("w", 2, (2, 20), EXPONENT),
        ]
    )


def write_bundle(folder: Path, layout: Layout | None = None) -> Bundle:
    """Writes the bundle and opens it as the service does."""
    folder.mkdir(parents=True)
    layout = layout or small_layout()
    start = (np.arange(layout.parameters, dtype=np.float32) % 60 - 30) / 64
    tensors = {tensor.name: start[tensor.span].reshape(tensor.shape) for tensor in layout.tensors}
    files = {"program": b"no program", "adapter": save(tensors), "tokenizer": b"{}"}
    names = {"program": "program.pte", "adapter": "adapter.safetensors", "tokenizer": "tokenizer.json"}
    manifest = bundle_pb2.Manifest(format_version=1, family="none", precision="fp32")
    manifest.chain.segments, manifest.chain.batch_examples, manifest.chain.hidden_size = 2, 8, 4
    manifest.text.max_tokens, manifest.text.pad_to_multiple_tokens = 16, 8
    manifest.text.truncation_side = manifest.text.padding_side = "right"
    manifest.task.kind = "sequence_classification"
    manifest.task.class_names.extend(["a", "b"])
    manifest.layout.parameters, manifest.layout.sha256 = layout.parameters, layout.sha256()
    for tensor in layout.tensors:
        manifest.layout.tensors.add(
            name=tensor.name,
            segment=tensor.segment,
            shape=tensor.shape,
            offset=tensor.offset,
            grid_exponent=tensor.exponent,
        )
    for part, data in files.items():
        (folder / names[part]).write_bytes(data)
        manifest.files[part].name, manifest.files[part].size_bytes = names[part], len(data)
        manifest.files[part].sha256 = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_bytes(manifest_json(manifest))
    return Bundle.open(folder)
