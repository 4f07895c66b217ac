"""`cooperllm device`: its limits, and the verbs that need no network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cooperllm.cli import main

from .test_device import NOWHERE, device_with_bundle
from .toy_bundle import CLASSES, toy_examples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With `store` of a device that holds the toy bundle, and `data.tsv`."""
    device_with_bundle(tmp_path).close()
    lines = [f"{e.text}\t{e.label}\n" for e in toy_examples(100)]
    (tmp_path / "data.tsv").write_text("text\tlabel\n" + "".join(lines))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `cooperllm device`."""
    code = main(["device", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_personalise_then_eval_and_predict_with_and_without_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", folder / "data.tsv")

    def own(verb: str, *arguments: object) -> str:
        code, out, err = run(capsys, verb, "--state", folder / "store", *arguments)
        assert (code, err) == (0, "")
        return out

    code, _, err = run(capsys, "--state", folder / "store", "eval", "--private", *data)
    assert (code, "nothing was personalised" in err) == (2, True)
    found = json.loads(own("personalise", *data, "--steps", 24, "--format", "json"))
    assert (found["kept"], found["steps"]) == (True, 24)
    losses = {}
    for which in ("--shared", "--private"):
        evaluated = json.loads(own("eval", which, *data, "--format", "json"))
        assert (evaluated["count"], evaluated["private"]) == (100, which == "--private")
        losses[which] = evaluated["loss"]
    assert losses["--private"] < losses["--shared"]
    text = own("eval", *data)
    assert text.startswith(f"shared adapter: loss {losses['--shared']:.4f} nats, accuracy ")
    lines = own("predict", "--private", "w1 w2", "w3").splitlines()
    assert [line.split("\t")[0] in CLASSES for line in lines] == [True, True]
    as_json = json.loads(own("predict", "w1 w2", "--format", "json"))
    assert sorted(as_json["probabilities"]) == sorted(CLASSES)
    assert own("personalise", *data, "--steps", 8).startswith("8 steps on 91 examples: loss ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "{data}"), "--server HOST:PORT is needed"),
        (("--server", NOWHERE), "--data FILE is needed"),
        (("--server", NOWHERE, "--data", "{data}", "--require", "idle,sunny"), "'sunny' is no condition"),
        (("--server", NOWHERE, "--data", "{data}", "--max-memory-bytes", "0"), "max_memory_bytes"),
        (("--server", NOWHERE, "--data", "{data}", "--max-duration-s", "-1"), "max_duration_s"),
        (("predict", "--state", "{data}", "w1"), "is no device's folder"),
        (("personalise", "--state", "{store}", "--data", "{data}", "--max-memory-bytes", "9"), "allow"),
    ],
)
def test_bad_options_are_one_line_with_what_to_do(
    folder: Path, arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(data=folder / "data.tsv", store=folder / "store") for argument in arguments]
    code, _, err = run(capsys, *filled)
    lines = err.strip().splitlines()
    assert (code, len(lines)) == (2, 1), err
    assert words in lines[0]
