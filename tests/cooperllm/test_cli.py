"""The command and the public API stay light, and errors are one line with the right exit code."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import cooperllm
from cooperllm.cli import COMMANDS, main

HEAVY = (
    "torch",
    "transformers",
    "executorch",
    "numpy",
    "grpc",
    "fastapi",
    "sqlalchemy",
    "matplotlib",
    "rich",
)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_help_lists_every_command_and_imports_none() -> None:
    code = f"""
import sys
from cooperllm.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
    for name in COMMANDS:
        assert f"    {name}" in result.stdout


def test_help_is_fast() -> None:
    durations_s = []
    for _ in range(3):
        start_s = time.perf_counter()
        run_python("-m", "cooperllm", "--help")
        durations_s.append(time.perf_counter() - start_s)
    assert min(durations_s) < 0.3


def test_version() -> None:
    assert run_python("-m", "cooperllm", "--version").stdout == f"cooperllm {cooperllm.__version__}\n"


def test_public_api_is_small_lazy_and_complete() -> None:
    assert len(cooperllm.__all__) <= 15
    code = f"""
import sys, cooperllm
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
for name in cooperllm.__all__:
    assert getattr(cooperllm, name) is not None, name
    assert name in dir(cooperllm)
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cooperllm.nonsense  # type: ignore[attr-defined]


def test_unknown_command_and_missing_command_are_usage_errors() -> None:
    for arguments in (["nonsense"], []):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["simulate", "--data", "absent.tsv", "--eval", "absent.tsv"], "absent.tsv: cannot be read"),
        (["simulate", "--data", "absent.tsv"], "--data needs --eval FILE"),
        (["simulate", "--eval", "absent.tsv"], "need --data FILE"),
        (["simulate", "--shards", "round"], 'use "iid" or "dirichlet:"'),
        (["simulate", "--devices", "0"], "--devices 0: use 1 to 256"),
        (["simulate", "--public", "0"], "--public 0: use at least 1"),
        (["simulate", "--link", "5g"], "--link 5g: 5g is no known link; use 4g, poor-4g, wifi, or down=RATE"),
        (["simulate", "--job", "absent.toml"], "--job absent.toml: cannot be read"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(
    arguments: list[str], line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    error = capfd.readouterr().err
    assert error.startswith("cooperllm: ")
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
