"""Bits of guides are weighed by the tasks that got them, and rounds without guides say nothing."""

from __future__ import annotations

from typing import Any

import pytest

from cooperllm.simulate import bits, round_plot
from cooperllm.simulate.bits import GuideBits
from device_runtime.zo.layout import Layout

LAYOUT = Layout.build([("a", 0, (1000,), 20), ("b", 1, (7,), 20), ("w", 2, (10, 10), 20)])


def made(level: int, segment: int, size_bytes: int) -> dict[str, Any]:
    return {"level": level, "segment": segment, "size_bytes": size_bytes}


def task(level: int | None, sent: bool = True) -> dict[str, Any]:
    return {"guide_level": level, "guide_sent": [{"segment": 0}] if sent else []}


DETAILS: list[dict[str, Any]] = [
    {"round": 0, "guide_segments": [], "tasks": [task(None)]},
    {
        "round": 1,
        "guide_segments": [made(0, 0, 4000), made(0, 2, 400), made(5, 0, 250), made(5, 2, 50), made(7, 0, 1)],
        "tasks": [task(0), task(5), task(5), task(5), task(7, sent=False), task(None)],
    },
    {
        "round": 2,
        "guide_segments": [made(5, 0, 125), made(5, 2, 25)],
        "tasks": [task(5)],
        "guide_cosines": {"5": 0.97},
    },
]


def test_bits_are_the_mean_over_tasks() -> None:
    found = bits.guide_bits(DETAILS, LAYOUT)
    assert [item.round for item in found] == [1, 2]
    assert found[0].bits_by_segment == pytest.approx({0: (32 + 3 * 2) / 4, 2: (32 + 3 * 4) / 4})
    assert found[0].tasks_by_level == {0: 1, 5: 3}
    assert found[0].cosine is None
    assert found[1] == GuideBits(2, {0: 1.0, 2: 2.0}, {5: 1}, 0.97)


def test_people_read_the_first_and_the_last_round() -> None:
    said = bits.lines(bits.guide_bits(DETAILS, LAYOUT))
    assert said == [
        "Guides were sent in 5.9 bits a parameter, mean of segments and rounds",
        "  round 1: 9.5 11 bits a parameter by segment (level 0: 1, level 5: 3)",
        "  round 2: 1 2 bits a parameter by segment (level 5: 1), cosine 0.970",
    ]
    assert bits.lines([]) == []


def test_bits_over_rounds_are_a_png() -> None:
    found = bits.guide_bits(DETAILS, LAYOUT)
    assert round_plot.draw_bits(found).startswith(b"\x89PNG")
    assert round_plot.draw_bits(found) != round_plot.draw_bits(found, dark=True)
