"""What a device says of the time that each segment takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_runtime.segment_work import SegmentWork

from .world import World


def test_a_pair_counts_as_two_adapters_and_nothing_run_takes_no_time() -> None:
    work = SegmentWork((4, 0, 0), (0, 2, 0), (8_000_000, 6_000_000, 0))
    assert work.run_ms == [2.0, 1.5, 0.0]


def test_what_was_done_since_is_a_difference() -> None:
    before, after = SegmentWork((1, 2), (3, 0), (10, 20)), SegmentWork((5, 2), (4, 0), (40, 20))
    assert after.since(before) == SegmentWork((4, 0), (1, 0), (30, 0))
    with pytest.raises(ValueError, match="zip"):
        after.since(SegmentWork())


def test_a_report_says_what_each_segment_took_within_the_time_of_the_task(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.turn(world.task())
    timing, work = world.cloud.reports[0].timing, world.engine.work
    assert len(timing.segment_ms) == len(world.bundle.layout.segments) == 3
    assert all(milliseconds > 0 for milliseconds in timing.segment_ms)
    assert work.runs == (2 * 4 * 2, 2 * 4 * 2, 2 * 4 * 2)
    spent_ms = sum(ms * runs for ms, runs in zip(timing.segment_ms, work.runs, strict=True))
    assert spent_ms <= world.engine._core.counters.total_ns / 1e6
