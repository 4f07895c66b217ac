"""The golden files that this device is the author of are still what it answers; Kotlin's tests read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden import make_concentration, make_device
from tests.golden.blob import FOLDER, read_cases


def test_states_in_a_file_are_what_they_were(tmp_path: Path) -> None:
    make_device.write_states(tmp_path)
    for name in ("states.json", "states.bin"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


def test_directions_lie_where_they_did() -> None:
    shapes, *cases = read_cases("concentration")
    assert len(cases) > 100
    for case in cases:
        seeds = [{**fields, "seed": int(fields["seed"], 16)} for fields in case["directions"]]
        found = make_concentration.answer({**case, "directions": seeds}, shapes["vectors"])
        assert found == {name: case[name] for name in found}, case


def test_what_is_computed_on_the_toy_bundle_is_close_on_any_cpu(tmp_path: Path) -> None:
    make_device.write_figures(tmp_path)
    was, now = read_cases("device")[0], read_cases_of(tmp_path)
    assert now["examples"] == was["examples"]
    assert now["segment_scores"] == pytest.approx(was["segment_scores"], abs=1e-5)
    assert now["evaluation"] == pytest.approx(was["evaluation"], abs=1e-5)
    for before, after in zip(was["kept"], now["kept"], strict=True):
        assert after["runs"] == before["runs"]
        assert np.allclose(after["scalars"], before["scalars"], rtol=0, atol=2e-3)
    for before, after in zip(was["personal"], now["personal"], strict=True):
        assert after["kept"] == before["kept"]
        assert np.allclose(after["losses"], before["losses"], rtol=0, atol=0.1)


def read_cases_of(folder: Path) -> dict[str, Any]:
    """What was written there just now, without its arrays."""
    case: dict[str, Any] = json.loads((folder / "device.json").read_text())["cases"][0]
    return case
