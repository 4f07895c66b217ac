"""Reads a bundle, and checks all of it before anything is used: version, sizes, hashes, layout, adapter."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import json_format
from safetensors import SafetensorError, safe_open

from device_runtime.errors import BundleError, BundleVersionError, LayoutMismatch
from device_runtime.zo.errors import ZoError
from device_runtime.zo.layout import Layout, LayoutTensor
from protos import bundle_pb2

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
PARTS = ("program", "adapter", "tokenizer")
PRECISIONS = ("fp32", "int8", "int4")  # of the frozen weights
# A manifest is some kilobytes; what is larger is not read into memory.
MAX_MANIFEST_BYTES = 16 << 20
_AGAIN = "fetch or export the bundle again"


@dataclass(frozen=True)
class Bundle:
    """A bundle that passed every check.

    Attributes:
        folder: where its files lie.
        sha256: its name, the SHA-256 (hex) of manifest.json.
        manifest: the manifest as a message (see bundle.proto).
        layout: which tensor of which segment sits where in the adapter.
        adapter: the initial adapter, float32 (n,), read-only.
    """

    folder: Path
    sha256: str
    manifest: bundle_pb2.Manifest
    layout: Layout
    adapter: npt.NDArray[np.float32]

    @classmethod
    def open(cls, folder: str | Path, sha256: str | None = None) -> Bundle:
        """Opens the bundle in a folder and checks all of it.

        Args:
            folder: the bundle's folder.
            sha256: the name that the bundle must have, where the caller knows it.

        Raises:
            BundleError: a file is missing, truncated or altered; fetch or export the bundle again.
            BundleVersionError: a format that this release does not read; update CooperLLM.
            LayoutMismatch: the layout is not the one that the manifest hashes, or the adapter is not of it.
        """
        folder = Path(folder)
        text = _read_manifest(folder)
        actual = hashlib.sha256(text).hexdigest()
        if sha256 is not None and actual != sha256:
            raise BundleError(f"{folder}: the manifest's SHA-256 is {actual}, not {sha256}; {_AGAIN}")
        manifest = parse_manifest(text, str(folder))
        for part in PARTS:
            _check_file(folder, part, manifest)
        layout = layout_of(manifest)
        adapter = read_adapter(folder / manifest.files["adapter"].name, layout)
        return cls(folder, actual, manifest, layout, adapter)

    def path(self, part: str) -> Path:
        """The file of a part: "program", "adapter" or "tokenizer"."""
        return self.folder / self.manifest.files[part].name

    @property
    def program_path(self) -> Path:
        """The ExecuTorch program."""
        return self.path("program")

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's JSON file."""
        return self.path("tokenizer")

    @property
    def class_names(self) -> list[str]:
        """The task's classes; a label is an index into them."""
        return list(self.manifest.task.class_names)

    @property
    def known_labels(self) -> list[str] | None:
        """The only labels that an example may have; None where a label is a text of its own, a response."""
        return None if self.manifest.chain.head_tokens else self.class_names


def parse_manifest(text: bytes, where: str) -> bundle_pb2.Manifest:
    """The manifest in `text`, proto3's JSON form; `where` names it in errors.

    Raises:
        BundleError: it is no manifest, or one without its parts.
        BundleVersionError: its format_version is another than this release reads.
    """
    try:
        fields: Any = json.loads(text)
        version = fields["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{where}: {MANIFEST_NAME} is no manifest; {_AGAIN}") from error
    # Before anything else is read: another version may have other fields.
    if version != FORMAT_VERSION:
        raise BundleVersionError(
            f"{where}: this bundle has format version {version!r}, this release reads {FORMAT_VERSION}; "
            "update CooperLLM or export the bundle with this release"
        )
    try:
        manifest = json_format.ParseDict(fields, bundle_pb2.Manifest())
    except (json_format.ParseError, RecursionError) as error:
        raise BundleError(f"{where}: {MANIFEST_NAME} has fields that no manifest has; {_AGAIN}") from error
    for part in PARTS:
        # A name with a folder in it could point outside the bundle.
        name = manifest.files[part].name if part in manifest.files else ""
        if not name or Path(name).name != name:
            raise BundleError(f"{where}: {MANIFEST_NAME} names no usable file for its {part}; {_AGAIN}")
    _check_rules(manifest, where)
    return manifest


def manifest_json(manifest: bundle_pb2.Manifest) -> bytes:
    """The bytes of manifest.json: proto3's JSON form with sorted keys, so that equal manifests hash equal."""
    fields = json_format.MessageToDict(
        manifest, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return (json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def layout_of(manifest: bundle_pb2.Manifest) -> Layout:
    """The manifest's layout.

    Raises:
        LayoutMismatch: it has gaps, or is not the layout whose SHA-256 the manifest gives.
    """
    tensors = tuple(
        LayoutTensor(t.name, t.segment, tuple(t.shape), t.offset, t.grid_exponent)
        for t in manifest.layout.tensors
    )
    try:
        layout = Layout(tensors)
    except ZoError as error:
        raise LayoutMismatch(str(error)) from error
    if layout.sha256() != manifest.layout.sha256 or layout.parameters != manifest.layout.parameters:
        raise LayoutMismatch(
            f"the manifest's layout is not the one whose SHA-256 and size it gives; {_AGAIN}"
        )
    if any(tensor.segment > manifest.chain.segments for tensor in tensors):
        raise LayoutMismatch(f"the manifest's layout has segments that its chain has not; {_AGAIN}")
    return layout


def read_adapter(path: Path, layout: Layout) -> npt.NDArray[np.float32]:
    """An adapter.safetensors as one float32 vector (n,) in the order of a layout, read-only.

    Raises:
        BundleError: not a safetensors file.
        LayoutMismatch: other names, shapes or types than the layout's, or values that are not finite, not on
            the grid, out of bound or -0.0.
    """
    vector = np.empty(layout.parameters, np.float32)
    try:
        with safe_open(path, framework="np") as file:
            expected = {tensor.name for tensor in layout.tensors}
            if set(file.keys()) != expected:
                raise LayoutMismatch(f"{path}: its tensors are not those of the layout; {_AGAIN}")
            for tensor in layout.tensors:
                values = file.get_tensor(tensor.name)
                if values.shape != tensor.shape or values.dtype != np.float32:
                    raise LayoutMismatch(
                        f"{path}: {tensor.name} is {values.dtype}{list(values.shape)}, "
                        f"not float32{list(tensor.shape)}; {_AGAIN}"
                    )
                vector[tensor.span] = values.reshape(-1)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: not a readable safetensors file; {_AGAIN}") from error
    try:
        layout.check(vector)
    except ZoError as error:
        raise LayoutMismatch(f"{path}: {error}") from error
    vector.flags.writeable = False
    return vector


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _check_rules(manifest: bundle_pb2.Manifest, where: str) -> None:
    """What every reader computes with: the text's rules, the batch, the chain and the classes."""
    text, chain = manifest.text, manifest.chain
    sides = {text.truncation_side, text.padding_side}
    if not 1 <= text.pad_to_multiple_tokens <= text.max_tokens or not sides <= {"left", "right"}:
        raise BundleError(f"{where}: {MANIFEST_NAME} has text rules that make no sense; {_AGAIN}")
    if chain.segments < 1 or chain.batch_examples < 1 or chain.hidden_size < 1:
        raise BundleError(
            f"{where}: {MANIFEST_NAME} has a chain without segments, batch or hidden size; {_AGAIN}"
        )
    if manifest.precision not in PRECISIONS:
        raise BundleError(f"{where}: {MANIFEST_NAME} names no precision that there is; {_AGAIN}")
    points = [(p.epsilon, p.initial_correlation, p.moved_correlation) for p in manifest.fidelity.points]
    sound = all(e > 0.0 and math.isfinite(e) and -1.0 <= a <= 1.0 and -1.0 <= b <= 1.0 for e, a, b in points)
    if not sound or (points and manifest.fidelity.epsilon not in [e for e, _, _ in points]):
        raise BundleError(f"{where}: {MANIFEST_NAME} has a fidelity that makes no sense; {_AGAIN}")
    if any(len(f.shape) != 2 or not 1 <= math.prod(f.shape) < 2**31 for f in manifest.adapter.frozen):
        raise BundleError(f"{where}: {MANIFEST_NAME} has frozen factors without a shape; {_AGAIN}")
    if (chain.head_tokens > 0) != (chain.vocabulary > 0):
        raise BundleError(f"{where}: {MANIFEST_NAME} has a head over tokens without a vocabulary; {_AGAIN}")
    if chain.head_tokens == 0 and len(manifest.task.class_names) < 2:
        raise BundleError(f"{where}: {MANIFEST_NAME} names fewer than two classes; {_AGAIN}")
    if len(text.prefix_ids) + len(text.suffix_ids) + len(text.end_ids) >= text.max_tokens:
        raise BundleError(f"{where}: {MANIFEST_NAME} has a template that leaves no room for text; {_AGAIN}")


def _read_manifest(folder: Path) -> bytes:
    path = folder / MANIFEST_NAME
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path}: too large for a manifest; {_AGAIN}")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{folder}: no bundle there ({MANIFEST_NAME}: {error.strerror}); "
            "give the folder that `cooperllm export` wrote"
        ) from error


def _check_file(folder: Path, part: str, manifest: bundle_pb2.Manifest) -> None:
    entry = manifest.files[part]
    path = folder / entry.name
    try:
        size_bytes = path.stat().st_size
        if size_bytes != entry.size_bytes:
            raise BundleError(f"{path}: {size_bytes} bytes, the manifest says {entry.size_bytes}; {_AGAIN}")
        if file_sha256(path) != entry.sha256:
            raise BundleError(f"{path}: its bytes were altered, the SHA-256 is not the manifest's; {_AGAIN}")
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; {_AGAIN}") from error
