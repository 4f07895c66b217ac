"""Builds and runs the C++ tests (a C++17 compiler, no ExecuTorch): allocations, windows, restoration."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CORE = Path(__file__).parents[3] / "device_runtime" / "core"
WRAPPED = ("malloc", "calloc", "realloc", "aligned_alloc")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The compiler's command, and the core compiled by it, all but what needs ExecuTorch or Python."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler: the loop's allocations were not counted")
    sources = [path for path in sorted(CORE.glob("*.cpp")) if not path.stem.startswith(("program", "bind"))]
    command = [compiler, "-std=c++17", "-O1", "-ffp-contract=off", f"-I{CORE}"]
    folder = tmp_path_factory.mktemp("objects")
    subprocess.run([*command, "-c", *map(str, sources)], cwd=folder, check=True)
    return [*command, *map(str, sorted(folder.glob("*.o")))]


@pytest.mark.parametrize(("name", "checks"), [("loop_test", 16), ("window_test", 46), ("stream_test", 41)])
def test_in_cpp(objects: list[str], name: str, checks: int, tmp_path: Path) -> None:
    wraps = ",".join(f"--wrap={name}" for name in WRAPPED)
    source = str(Path(__file__).with_name(f"{name}.cpp"))
    command = [*objects, f"-Wl,{wraps}", source, "-o", str(tmp_path / name)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    # Another machine's compiler comes with what runs its programs here.
    launcher = os.environ.get("CXX_LAUNCHER", "").split()
    run = subprocess.run([*launcher, str(tmp_path / name)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("ok: ") == checks, run.stdout
