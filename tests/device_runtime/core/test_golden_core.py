"""The C++ core still answers what the golden files say that it does; Kotlin reads the same files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from device_runtime.core import Plan
from tests.golden import make_core
from tests.golden.blob import read_cases

EXACT = ("embed_runs", "segment_runs", "auxiliary_runs", "count", "correct")
TOLERANCE = 2e-3  # of rho, whose last bits depend on the CPU: 2e-6 of a loss over twice epsilon


@pytest.mark.parametrize("case", read_cases("plans"))
def test_plans(case: dict[str, Any]) -> None:
    labels = np.array(case["labels"], np.int32)
    runs = Plan(labels).runs
    assert [[position, label, below] for position, label, _, _, below in runs] == case["runs"]
    assert [list(run) for run in Plan(labels, by_level=True).runs] == case["levels"]


def test_local_update() -> None:
    figures = make_core.toy()
    cases = read_cases("local_update")
    assert [case["name"] for case in cases] == [case["name"] for case in figures.cases()]
    for case, asked in zip(cases, figures.cases(), strict=True):
        found = figures.answer(asked, case["batches"])
        assert {name: found[name] for name in EXACT} == {name: case[name] for name in EXACT}, case["name"]
        assert np.allclose(found["rho"], case["rho"], rtol=0, atol=TOLERANCE), case["name"]
        assert found["loss_sum"] == pytest.approx(case["loss_sum"], abs=1e-5)
        if case["update"]:
            assert found["clamped"] == case["clamped"]
            assert found["adapter_after"].tobytes() == case["adapter_after"].tobytes()
