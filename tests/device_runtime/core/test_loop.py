"""Builds and runs loop_test.cpp (a C++17 compiler, no ExecuTorch): no allocation, and always restored."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CORE = Path(__file__).parents[3] / "device_runtime" / "core"
WRAPPED = ("malloc", "calloc", "realloc", "aligned_alloc")


def test_the_loop_allocates_nothing_and_always_restores(tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler: the loop's allocations were not counted")
    sources = [path for path in sorted(CORE.glob("*.cpp")) if not path.stem.startswith(("program", "bind"))]
    program = tmp_path / "loop_test"
    wraps = ",".join(f"--wrap={name}" for name in WRAPPED)
    command = [compiler, "-std=c++17", "-O1", "-ffp-contract=off", f"-I{CORE}", f"-Wl,{wraps}"]
    built = subprocess.run(
        [*command, str(Path(__file__).with_name("loop_test.cpp")), *map(str, sources), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    run = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("ok: ") == 10
