"""What is said of where a run in two blocks was cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cooperllm.simulate import blocks
from cooperllm.simulate.records import RoundRow


def split(boundary: int, per_prefix: int, by: str, *segment_ms: float) -> dict[str, Any]:
    return {
        "boundary": boundary, "per_prefix": per_prefix, "by": by, "segment_ms": list(segment_ms),
        "reports": 3 if segment_ms else 0,
    }  # fmt: skip


def row(version: int, facts: Mapping[str, Any] | None) -> RoundRow:
    return RoundRow("cooperllm", 0, version, "aa", {}, 0.5, 0.7, 1.0, {}, {}, {}, None, facts)


def test_rounds_with_the_same_cut_are_one_line_and_the_last_times_are_told() -> None:
    cuts = [split(2, 4, "count"), split(1, 8, "times", 9.0, 1.5, 0.25), split(1, 8, "times", 9.5, 1.5, 0.251)]
    found = blocks.summary([row(number, facts) for number, facts in enumerate([*cuts, None])])
    assert [item["rounds"] for item in found] == [[0, 0], [1, 2]]
    assert blocks.lines(found) == [
        "Two blocks: cut before segment 2, P2 = 4, by counted operations, rounds 0-0",
        "Two blocks: cut before segment 1, P2 = 8, by the devices' times, rounds 1-2",
        "  a run of each segment took 9.5 1.5 0.251 ms, the head's last (median of devices)",
    ]


def test_a_run_without_blocks_says_nothing() -> None:
    assert blocks.summary([row(0, None), row(1, None)]) == []
    assert blocks.lines([]) == []
