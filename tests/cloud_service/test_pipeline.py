"""The flow shop: its formula against small cases by hand and against a simulation that knows no formula."""

from __future__ import annotations

import random

import pytest

from cloud_service.pipeline import completion, makespan_s, serial_s


def _simulated_s(stages_s: list[list[float]]) -> float:
    """Steps from event to event: a free stage takes its next segment once that has left the stage before."""
    segments = len(stages_s[0])
    busy_until_s = [0.0] * len(stages_s)
    taken, left = [0] * len(stages_s), [0] * len(stages_s)
    now_s = 0.0
    while left[-1] < segments:
        for stage, takes_s in enumerate(stages_s):
            if taken[stage] > left[stage] and busy_until_s[stage] <= now_s:
                left[stage] += 1
            arrived = segments if stage == 0 else left[stage - 1]
            if taken[stage] == left[stage] and taken[stage] < arrived:
                busy_until_s[stage] = now_s + takes_s[taken[stage]]
                taken[stage] += 1
        due = [
            busy_until_s[s] for s in range(len(stages_s)) if taken[s] > left[s] and busy_until_s[s] > now_s
        ]
        now_s = min(due, default=now_s)
    return now_s


def test_three_equal_stages_take_the_segments_and_two_more() -> None:
    stages = [[1.0] * 8] * 3
    assert makespan_s(stages) == 10.0
    assert serial_s(stages) == 24.0


def test_a_segment_waits_for_the_one_before_and_for_the_stage_before() -> None:
    assert completion([[1.0, 1.0, 4.0], [3.0, 1.0, 1.0]]) == [[1.0, 2.0, 6.0], [4.0, 5.0, 7.0]]


@pytest.mark.parametrize("seed", range(20))
def test_the_formula_is_the_simulation(seed: int) -> None:
    draw = random.Random(seed)
    stages = [[float(draw.randint(1, 9)) for _ in range(draw.randint(1, 7))]]
    stages += [[float(draw.randint(1, 9)) for _ in stages[0]] for _ in range(draw.randint(0, 3))]
    assert makespan_s(stages) == _simulated_s(stages)


def test_bounds_of_any_schedule() -> None:
    stages = [[2.0, 1.0, 3.0], [1.0, 5.0, 1.0]]
    assert max(map(sum, stages)) <= makespan_s(stages) <= serial_s(stages)
    assert makespan_s([]) == makespan_s([[]]) == 0.0


def test_stages_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        completion([[1.0], [1.0, 2.0]])
