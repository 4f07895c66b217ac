"""The table of both signs in one forward."""

from __future__ import annotations

from benchmarks.signs import table


def test_a_line_names_the_gain() -> None:
    rows = [{"tokens": 8, "rows": 64, "apart_s": 0.0054, "together_s": 0.005}]
    lines = table(rows).splitlines()
    assert lines[1].split() == ["8", "64", "5.40", "5.00", "1.08"]
    assert lines[-1] == "a device pairs batches up to the last length before a gain below 1.05"
