"""benchmarks/streaming_order.py: its processes on the tiny bundle, its table and what it calls a problem."""

from __future__ import annotations

import pytest

from benchmarks.streaming_order import measure, problem, table
from device_runtime.bundle import Bundle


@pytest.mark.ci
def test_three_orders_give_the_same_scalars_and_hold_what_they_should(tiny_bundle: Bundle) -> None:
    rows = measure(tiny_bundle.folder, 16, 4, 1)
    assert problem(rows) == ""
    assert [row["group"] for row in rows] == [0, 4, 1]
    assert rows[0]["guide_bytes"] == rows[0]["whole_guide_bytes"]
    assert rows[1]["state_bytes"] == 4 * rows[2]["state_bytes"] > 0
    lines = table(rows).splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == ["whole guides", "streaming", "groups of 1"]


def test_what_is_a_problem() -> None:
    row = {"scalars": [1.0], "guide_bytes": 8, "two_largest_segments_bytes": 8}
    assert problem([row, row]) == ""
    assert problem([row, {**row, "scalars": [1.5]}]) == "the scalars differ"
    assert "two largest" in problem([row, {**row, "guide_bytes": 9}])
