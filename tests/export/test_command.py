"""The arguments of `cooperllm export`."""

from __future__ import annotations

import argparse

import pytest

from export.command import add_arguments, run


def test_export_steps_go_to_stderr(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
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
