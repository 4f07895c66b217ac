"""`cooperllm inspect`, and the arguments of `cooperllm export`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest

from device_runtime.bundle import Bundle
from export.command import add_arguments, add_inspect_arguments, run, run_inspect


def inspect(bundle: Bundle, *more: str) -> int:
    parser = argparse.ArgumentParser()
    add_inspect_arguments(parser)
    return run_inspect(parser.parse_args([str(bundle.folder), *more]))


def test_inspect_text(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(tiny_bundle) == 0
    text = capsys.readouterr().out
    assert tiny_bundle.sha256 in text
    assert "red, green, blue" in text
    for tensor in tiny_bundle.layout.tensors:
        assert tensor.name in text
    for method in tiny_bundle.manifest.chain.methods:
        assert f"\n{method.name} " in text
    assert "aten::embedding" in text


def test_inspect_json(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(tiny_bundle, "--format", "json") == 0
    fields = json.loads(capsys.readouterr().out)
    manifest = json.loads((tiny_bundle.folder / "manifest.json").read_bytes())
    assert fields == {"sha256": tiny_bundle.sha256, **manifest}


def test_inspect_needs_no_torch(tiny_bundle: Bundle) -> None:
    code = (
        "import argparse, sys; from export.command import add_inspect_arguments, run_inspect; "
        "parser = argparse.ArgumentParser(); add_inspect_arguments(parser); "
        "run_inspect(parser.parse_args(sys.argv[1:])); "
        "sys.exit(bool({'torch', 'executorch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_bundle.folder)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_export_steps_go_to_stderr(
    tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    out = tmp_path_factory.mktemp("out") / "bundle"
    arguments = ["--classes", "a,b", "--out", str(out), "--segments", "99"]
    with pytest.raises(Exception, match="choose 1 to 6"):
        run(parser.parse_args(arguments))
    captured = capsys.readouterr()
    assert "reading the weights" in captured.err
    assert captured.out == ""
