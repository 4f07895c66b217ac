"""A bundle is believed only after every check; each kind of damage gives its own one-line error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from device_runtime.bundle import Bundle, layout_of, manifest_json, parse_manifest
from device_runtime.errors import BundleError, BundleVersionError, LayoutMismatch
from device_runtime.zo.layout import Layout
from protos import bundle_pb2

LAYOUT = Layout.build([("a", 0, (2, 3), 20), ("b", 0, (4,), 18), ("bias", 1, (2,), 20)])
TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3) / 2**20,
    "b": np.array([1.5, -2.0, 0.0, 3.25], np.float32),
    "bias": np.array([0.0, -0.5], np.float32),
}


def write(
    folder: Path, tensors: dict[str, np.ndarray[Any, Any]], layout: Layout = LAYOUT
) -> bundle_pb2.Manifest:
    """A small bundle whose program is no program: the reader never runs it."""
    folder.mkdir(exist_ok=True)
    manifest = bundle_pb2.Manifest(format_version=1, family="bert", precision="fp32", created_by="a test")
    manifest.task.CopyFrom(bundle_pb2.TaskKind(kind="sequence_classification", class_names=["né", "yes"]))
    manifest.text.CopyFrom(
        bundle_pb2.Text(max_tokens=8, truncation_side="right", padding_side="right", pad_to_multiple_tokens=4)
    )
    manifest.chain.CopyFrom(bundle_pb2.Chain(segments=1, batch_examples=2, hidden_size=3))
    manifest.layout.parameters = layout.parameters
    manifest.layout.sha256 = layout.sha256()
    for t in layout.tensors:
        manifest.layout.tensors.add(
            name=t.name, segment=t.segment, shape=t.shape, offset=t.offset, grid_exponent=t.exponent
        )
    parts = {"program": b"p" * 1000, "adapter": save(tensors), "tokenizer": b"{}"}
    for part, data in parts.items():
        (folder / part).write_bytes(data)
        manifest.files[part].CopyFrom(
            bundle_pb2.FileEntry(name=part, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        )
    (folder / "manifest.json").write_bytes(manifest_json(manifest))
    return manifest


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    fields = json.loads(path.read_bytes())
    change(fields)
    path.write_text(json.dumps(fields))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "bundle", TENSORS)
    return tmp_path / "bundle"


def test_open(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.adapter.tolist() == np.concatenate([t.reshape(-1) for t in TENSORS.values()]).tolist()
    assert not bundle.adapter.flags.writeable
    assert bundle.layout == LAYOUT
    assert bundle.class_names == ["né", "yes"]
    assert bundle.sha256 == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert Bundle.open(folder, bundle.sha256).sha256 == bundle.sha256
    with pytest.raises(BundleError, match="SHA-256"):
        Bundle.open(folder, "0" * 64)


def test_manifest_round_trip(tmp_path: Path) -> None:
    manifest = write(tmp_path / "bundle", TENSORS)
    text = manifest_json(manifest)
    assert parse_manifest(text, "here") == manifest
    assert manifest_json(parse_manifest(text, "here")) == text
    assert layout_of(manifest) == LAYOUT
    names = list(json.loads(text))
    assert names == sorted(names)


@pytest.mark.parametrize("part", ["program", "adapter", "tokenizer", "manifest.json"])
def test_missing(folder: Path, part: str) -> None:
    (folder / part).unlink()
    check_refused(folder, BundleError, part)


@pytest.mark.parametrize("part", ["program", "adapter", "tokenizer"])
def test_truncated(folder: Path, part: str) -> None:
    data = (folder / part).read_bytes()
    (folder / part).write_bytes(data[:-1])
    check_refused(folder, BundleError, "bytes, the manifest says")


@pytest.mark.parametrize("part", ["program", "adapter", "tokenizer"])
def test_altered(folder: Path, part: str) -> None:
    data = bytearray((folder / part).read_bytes())
    data[-1] ^= 1
    (folder / part).write_bytes(data)
    check_refused(folder, BundleError, "altered")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_unknown_format_version(folder: Path, version: object) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["format_version"] = version
        fields["what_a_later_format_has"] = 1  # must not matter: the version is read first

    change_manifest(folder, change)
    check_refused(folder, BundleVersionError, "update CooperLLM")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"format_version": 1, "surprise": 2}', "[" * 100_000])
def test_no_manifest(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    check_refused(folder, BundleError, "manifest")


def test_a_file_outside_the_bundle(folder: Path) -> None:
    change_manifest(folder, lambda fields: fields["files"]["adapter"].update(name="../adapter"))
    check_refused(folder, BundleError, "names no usable file")


@pytest.mark.parametrize(
    ("place", "value"),
    [(("text", "max_tokens"), 0), (("text", "pad_to_multiple_tokens"), 0), (("text", "padding_side"), "up"),
     (("chain", "batch_examples"), 0), (("task", "class_names"), ["one"])],
)  # fmt: skip
def test_rules_that_make_no_sense(folder: Path, place: tuple[str, str], value: object) -> None:
    change_manifest(folder, lambda fields: fields[place[0]].update({place[1]: value}))
    check_refused(folder, BundleError, "manifest.json")


def test_wrong_layout_hash(folder: Path) -> None:
    change_manifest(folder, lambda fields: fields["layout"].update(sha256="0" * 64))
    check_refused(folder, LayoutMismatch, "layout")


def test_layout_with_a_changed_exponent(folder: Path) -> None:
    change_manifest(folder, lambda fields: fields["layout"]["tensors"][0].update(grid_exponent=19))
    check_refused(folder, LayoutMismatch, "layout")


def test_layout_with_a_gap(folder: Path) -> None:
    change_manifest(folder, lambda fields: fields["layout"]["tensors"][1].update(offset=7))
    check_refused(folder, LayoutMismatch, "offset")


@pytest.mark.parametrize(
    ("value", "reason"),
    [(np.nan, "NaN"), (np.inf, "NaN or infinity"), (2.0**-21, "multiple"), (8.0, "2\\^3"), (-0.0, "-0.0")],
)
def test_adapter_off_the_rules(tmp_path: Path, value: float, reason: str) -> None:
    wrong = {name: tensor.copy() for name, tensor in TENSORS.items()}
    wrong["a"][1, 2] = value
    write(tmp_path / "bundle", wrong)
    check_refused(tmp_path / "bundle", LayoutMismatch, reason)


def test_adapter_of_another_shape_name_or_type(tmp_path: Path) -> None:
    others: list[dict[str, np.ndarray[Any, Any]]] = [
        {**TENSORS, "a": TENSORS["a"].reshape(3, 2)},
        {**TENSORS, "b": TENSORS["b"].astype(np.float64)},
        {"a": TENSORS["a"], "b": TENSORS["b"]},
        {**TENSORS, "c": TENSORS["b"]},
    ]
    for number, tensors in enumerate(others):
        write(tmp_path / str(number), tensors)
        check_refused(tmp_path / str(number), LayoutMismatch, "export the bundle again")


def test_adapter_that_is_no_safetensors(folder: Path) -> None:
    data = b"x" * 64
    (folder / "adapter").write_bytes(data)
    entry = {"name": "adapter", "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change_manifest(folder, lambda fields: fields["files"].update(adapter=entry))
    check_refused(folder, BundleError, "safetensors")


def test_no_bundle_at_all(tmp_path: Path) -> None:
    check_refused(tmp_path / "nowhere", BundleError, "no bundle there")
    file = tmp_path / "file"
    file.write_text("x")
    check_refused(file, BundleError, "no bundle there")


def check_refused(folder: Path, kind: type[BundleError], reason: str) -> None:
    with pytest.raises(kind, match=reason) as caught:
        Bundle.open(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
