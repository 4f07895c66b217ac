"""benchmarks/forward.py: its processes on the tiny bundle, its batch, its table and its picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.forward import GOALS, plot, table, verdict
from benchmarks.processes import Child, run_child
from benchmarks.step_inputs import ragged_arrays
from device_runtime.bundle import Bundle
from device_runtime.engine import Engine
from device_runtime.local_update import Batch


def test_a_child_runs_when_asked_and_its_memory_is_watched(tiny_bundle: Bundle) -> None:
    child = Child("benchmarks.forward_on_device", str(tiny_bundle.folder), "16", "1", threads=1)
    try:
        logits = child.ask("")["logits"]
        wanted = Engine(tiny_bundle).logits(Batch(*ragged_arrays(tiny_bundle, 16)))
        np.testing.assert_array_equal(np.float32(logits), wanted)
        times_ms = child.ask("3")["times_ms"]
        assert len(times_ms) == 3
        assert min(times_ms) > 0
        memory = child.memory
        assert 0 < memory.imported_rss_bytes < memory.peak_rss_bytes
        assert memory.growth_anonymous_bytes > 0
    finally:
        child.end()


def test_a_child_that_fails_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match=r"benchmarks\.forward_on_device failed"):
        run_child("benchmarks.forward_on_device", str(tmp_path), "16", "1", threads=1)
    assert "no bundle there" in capfd.readouterr().err


def test_the_batch_has_padding_as_the_bundle_wants_it(tiny_bundle: Bundle) -> None:
    ids, mask, labels, weights = ragged_arrays(tiny_bundle, 16)
    lengths = mask.sum(1)
    assert lengths.max() == 16
    assert len(set(lengths.tolist())) > 2
    assert ((ids != tiny_bundle.manifest.text.pad_id) == (mask == 1)).all()
    assert (np.diff(mask, axis=1) <= 0).all()  # on the right
    assert len(labels) == len(weights) == tiny_bundle.manifest.chain.batch_examples


def figures(speed: float) -> dict[str, float]:
    sizes = ("peak_rss_bytes", "peak_anonymous_bytes", "growth_rss_bytes")
    return {
        "forward_ms": 10.0,
        "least_ms": 9.0,
        "speed": speed,
        "logits_error": 0.01,
        **dict.fromkeys(sizes, 1e8),
    }


def test_goals_are_said_to_be_met_or_missed_and_drawn(tmp_path: Path) -> None:
    rows = {"eager": figures(1.0), "fp32": figures(GOALS["fp32"]), "int8": figures(GOALS["int8"] - 0.01)}
    rows["int4"] = {"error": "no such precision"}  # type: ignore[dict-item]
    assert verdict("fp32", rows["fp32"]) == "1.0 met"
    assert verdict("int8", rows["int8"]) == "1.8 MISSED"
    lines = table("minilm", 2, rows).splitlines()
    assert "2 threads" in lines[0]
    assert "MISSED" in lines[4]
    assert "no such precision" in lines[5]
    plot([{"model": "minilm", "threads": 2, "rows": rows}], tmp_path / "plots" / "forward.png")
    assert (tmp_path / "plots" / "forward.png").stat().st_size > 5000
