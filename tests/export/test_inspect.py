"""`cooperllm inspect`: text, JSON and the picture, without torch."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from device_runtime.bundle import Bundle
from device_runtime.zo.layout import Layout
from export.inspect import add_arguments, amount, chain_methods, describe, outside, run
from export.outside import UNEXPECTED, reason
from export.picture import draw
from protos import bundle_pb2

SVG = "{http://www.w3.org/2000/svg}"


def inspect(bundle: Bundle, *more: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(bundle.folder), *more]))


def test_text(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(tiny_bundle) == 0
    text = capsys.readouterr().out
    assert tiny_bundle.sha256 in text
    assert "red, green, blue" in text
    for tensor in tiny_bundle.layout.tensors:
        assert tensor.name in text
    for method in tiny_bundle.manifest.chain.methods:
        assert f"\n{method.name} " in text
    assert "aten::embedding" in text
    for entry in tiny_bundle.manifest.files.values():
        assert f"{entry.size_bytes:,}" in text


def test_json(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(tiny_bundle, "--format", "json") == 0
    fields = json.loads(capsys.readouterr().out)
    why = fields.pop("outside_xnnpack")
    manifest = json.loads((tiny_bundle.folder / "manifest.json").read_bytes())
    assert fields == {"sha256": tiny_bundle.sha256, **manifest}
    left = {
        (m.name, operator) for m in tiny_bundle.manifest.chain.methods for operator in m.undelegated_operators
    }
    assert {(row["method"], row["operator"]) for row in why} == left


def test_every_operator_outside_has_its_reason(tiny_bundle: Bundle) -> None:
    assert [row for row in outside(tiny_bundle) if row["reason"] == UNEXPECTED] == []
    assert reason("segment_0", "aten::embedding.out") == reason("embed", "aten::nothing.out") == UNEXPECTED


def test_flops_constants_and_blocks_are_the_models(tiny_bundle: Bundle) -> None:
    methods = {method.name: method for method in tiny_bundle.manifest.chain.methods}
    rows, tokens, width, inner = 4 * 32, 32, 32, 64
    linear = rows * (4 * width * width + 2 * width * inner)
    attention = 2 * rows * tokens * width
    lora = rows * 2 * (width * 4 + 4 * width)
    norms = 2 * 2 * rows * width  # two means each, as products with 1/D
    assert methods["segment_0"].flops == 2 * (linear + attention + lora + norms)
    assert [method.blocks for method in methods.values()] == [0, 1, 1, 0, 0]
    words = 4 * 30522 * width
    assert words < methods["embed"].constant_bytes < 1.02 * words
    weights = 4 * (4 * width * width + 2 * width * inner)
    assert weights < methods["segment_0"].constant_bytes < weights + 20_000
    program = tiny_bundle.manifest.files["program"].size_bytes
    assert sum(method.constant_bytes for method in methods.values()) < program


@pytest.mark.parametrize(("number", "shown"), [(999, "999 B"), (1000, "1.00 kB"), (123456789, "123 MB")])
def test_amounts(number: int, shown: str) -> None:
    assert amount(number, "B") == shown


def test_fidelity_and_methods_beside_the_chain(tiny_bundle: Bundle) -> None:
    manifest = bundle_pb2.Manifest()
    manifest.CopyFrom(tiny_bundle.manifest)
    manifest.fidelity.directions, manifest.fidelity.epsilon = 64, 0.01
    manifest.fidelity.points.add(epsilon=0.001, initial_correlation=0.5, moved_correlation=0.4)
    manifest.fidelity.points.add(epsilon=0.01, initial_correlation=0.995, moved_correlation=0.991)
    manifest.chain.methods.add(name="auxiliary_0", delegates=1, flops=10**15)
    changed = dataclasses.replace(tiny_bundle, manifest=manifest)
    lines = describe(changed, layout=False)
    assert [line for line in lines if "<- least error" in line] == [
        f"{'0.01':>10}{'0.9950':>10}{'0.9910':>10}  <- least error"
    ]
    assert any(line.startswith("auxiliary_0 ") for line in lines)
    flops = sum(method.flops for method in chain_methods(tiny_bundle))
    assert any(amount(flops, "FLOPs") in line for line in lines if line.startswith("one forward"))
    drawn = draw(changed)
    assert "2 methods beside the chain" in drawn
    assert ">auxiliary_0<" not in drawn
    without = describe(tiny_bundle, layout=True)
    assert "fidelity: not measured" in without
    assert len(without) > len(describe(tiny_bundle, layout=False)) + len(tiny_bundle.layout.tensors)


def chain_of(bundle: Bundle, segments: int) -> Bundle:
    """The same bundle as if it had so many segments, all alike."""
    manifest = bundle_pb2.Manifest()
    manifest.CopyFrom(bundle.manifest)
    embed, segment, _, head, _ = bundle.manifest.chain.methods
    del manifest.chain.methods[:]
    manifest.chain.methods.append(embed)
    for k in range(segments):
        manifest.chain.methods.append(segment)
        manifest.chain.methods[-1].name = f"segment_{k}"
    manifest.chain.methods.append(head)
    manifest.chain.segments = segments
    manifest.source.model = "some/model-with-<a>-long & odd name" * 3
    own, last = bundle.layout.segment_tensors(0), bundle.layout.segment_tensors(2)
    rows = [(f"{k}.{t.name}", k, t.shape, t.exponent) for k in range(segments) for t in own]
    layout = Layout.build([*rows, *((t.name, segments, t.shape, t.exponent) for t in last)])
    return dataclasses.replace(bundle, manifest=manifest, layout=layout)


@pytest.mark.parametrize("segments", [1, 2, 6, 24, 48])
def test_picture(tiny_bundle: Bundle, segments: int) -> None:
    drawn = ElementTree.fromstring(draw(chain_of(tiny_bundle, segments)))
    width, height = float(drawn.get("width", "")), float(drawn.get("height", ""))
    assert width <= 1400
    assert height <= 2000
    boxes = [box for box in drawn.iter(f"{SVG}rect") if "box" in (box.get("class") or "")]
    assert len(boxes) == segments + 2
    corners = [tuple(float(box.get(side, "")) for side in ("x", "y", "width", "height")) for box in boxes]
    for i, (x, y, w, h) in enumerate(corners):
        assert x + w <= width
        assert y + h <= height
        assert all(abs(x - a) >= w or abs(y - b) >= h for a, b, _, _ in corners[:i])
    names = [text.text for text in drawn.iter(f"{SVG}text") if text.get("class") == "name"]
    assert names == ["embed", *(f"segment_{k}" for k in range(segments)), "head"]


def test_picture_is_written_and_nothing_needs_torch(tiny_bundle: Bundle, tmp_path: Path) -> None:
    code = (
        "import argparse, sys; from export.inspect import add_arguments, run; "
        "parser = argparse.ArgumentParser(); add_arguments(parser); "
        "run(parser.parse_args(sys.argv[1:])); "
        "sys.exit(bool({'torch', 'executorch', 'transformers'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tiny_bundle.folder), "--svg", str(tmp_path / "chain.svg")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "chain.svg").read_text("utf-8") == draw(tiny_bundle)
