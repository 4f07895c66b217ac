"""benchmarks/emulator.py without the emulator: what counts as passed and as equal, on this machine."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.emulated import NATIVE
from benchmarks.emulator import correct, table

STEP: dict[str, Any] = {
    "tokens": 16, "loss_apart": 1e-7, "rho_apart": 2e-6, "adapter_equal": True,
    "emulated": {"rows": 2, "program_bytes": 8.1e6, "imported_rss_bytes": 135e6, "peak_rss_bytes": 163e6,
                 "direction_s": 0.07},
}  # fmt: skip
FIGURES: dict[str, Any] = {
    "golden_tests_passed": 101, "kernel_results": 14, "kernel_results_equal": 14, "steps": {"tiny": STEP},
    "emulated": {"machine": "aarch64", "instructions": "baseline", "core_bytes": 4e5, "libraries_bytes": 1e7},
    "native": {"machine": "x86_64", "instructions": "avx2", "core_bytes": 5e5, "libraries_bytes": 14e6},
}  # fmt: skip


def test_one_result_that_differs_is_a_failure_and_shows() -> None:
    assert correct(FIGURES)
    assert "14 of 14 equal bit for bit to x86_64's" in table(FIGURES)
    kernels = FIGURES | {"kernel_results_equal": 13}
    assert not correct(kernels)
    assert "13 of 14" in table(kernels)
    adapter = copy.deepcopy(FIGURES)
    adapter["steps"]["tiny"]["adapter_equal"] = False
    assert not correct(adapter)
    assert "DIFFERENT" in table(adapter)


def test_tests_count_as_passed_only_when_all_did(tmp_path: Path) -> None:
    file = tmp_path / "test_some.py"
    given = (str(file), "-c", "/dev/null", "--rootdir", str(tmp_path))
    file.write_text("def test_a(): pass\ndef test_b(): pass\ndef test_other(): pass\n")
    assert NATIVE.passed_tests(*given, "-k", "not other", timeout_s=60) == 2
    for other in (
        "import pytest\ndef test_a(): pytest.skip()\ndef test_b(): pass\n",
        "def test_a(): assert 0\n",
    ):
        file.write_text(other)
        with pytest.raises(RuntimeError, match=r"1 (skipped|failed)"):
            NATIVE.passed_tests(*given, timeout_s=60)


def test_what_a_program_said_when_it_failed_is_shown() -> None:
    with pytest.raises(RuntimeError, match="not enough values"):
        NATIVE.ask("benchmarks.emulator_on_device", "step", timeout_s=60)
