"""The core on emulated arm64: kernels bit for bit, the core's own tests, losses beside this machine's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.emulated import NATIVE, ROOT, Emulator
from benchmarks.emulator_bundles import MINILM_TOKENS, TINY_TOKENS, minilm

pytestmark = pytest.mark.emulator
PROGRAM = "benchmarks.emulator_on_device"
CORE = "tests/device_runtime/core"
# ε is 0.01: float32 losses about 1 that differ by one or two roundings move ρ by 1e-5.
LOSS_TOLERANCE, RHO_TOLERANCE = 1e-6, 3e-5


def test_golden_files(emulator: Emulator) -> None:
    files = [f"tests/device_runtime/{file}" for file in ("core/test_kernels.py", "zo", "test_text.py")]
    assert emulator.passed_tests(*files, "-k", "golden", timeout_s=300) > 30


def test_the_cores_own_tests(emulator: Emulator) -> None:
    assert emulator.passed_tests(CORE, "--ignore", f"{CORE}/test_loop.py", timeout_s=600) > 150


def test_the_loop_allocates_nothing(emulator: Emulator) -> None:
    """Compiled here for arm64, run there."""
    changed = {"CXX": "aarch64-linux-gnu-g++", "CXX_LAUNCHER": emulator.launcher, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{CORE}/test_loop.py"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | changed, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def test_kernels_are_those_of_this_machine_bit_for_bit(emulator: Emulator) -> None:
    there, here = (machine.ask(PROGRAM, "kernels", timeout_s=300) for machine in (emulator, NATIVE))
    assert there.pop("machine") == "aarch64"
    assert there.pop("instructions") == "baseline"
    assert there["results"] == here["results"]
    assert all(value is True for name, value in there["results"].items() if name.endswith("restored"))


def test_losses_are_those_of_this_machine(emulator: Emulator, emulated_bundle: Path) -> None:
    arguments = ("step", str(emulated_bundle), str(TINY_TOKENS), "8")
    there, here = (machine.ask(PROGRAM, *arguments, timeout_s=300) for machine in (emulator, NATIVE))
    assert there["loss"] == pytest.approx(here["loss"], abs=LOSS_TOLERANCE)
    assert there["rho"] == pytest.approx(here["rho"], abs=RHO_TOLERANCE)
    assert max(map(abs, here["rho"])) > 100 * RHO_TOLERANCE
    assert there["restored"]
    assert there["updated_sha256"] == here["updated_sha256"]
    assert there["direction_s"] < 1.0


def test_a_step_of_minilm(emulator: Emulator) -> None:
    """One direction of the int8 program on a batch of 8 × 64."""
    arguments = ("step", str(minilm("int8")), str(MINILM_TOKENS["int8"]), "1")
    there, here = (machine.ask(PROGRAM, *arguments, timeout_s=600) for machine in (emulator, NATIVE))
    assert there["direction_s"] < 60.0
    assert there["loss"] == pytest.approx(
        here["loss"], rel=1e-3
    )  # activations are rounded to 8 bits on the way
    assert there["restored"]
    assert there["updated_sha256"] == here["updated_sha256"]
