"""No segment runs twice on the same input: a plan's runs are the nodes of the trie of the label strings."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.core import Core, Direction, Plan

from .conftest import Toy

Labels = NDArray[np.int32]


def plain(directions: int, segments: int, first_active: int = 0) -> Labels:
    labels = np.zeros((2 * directions, segments), np.int32)
    for d in range(directions):
        labels[2 * d, first_active:] = d + 1
        labels[2 * d + 1, first_active:] = -(d + 1)
    return labels


def two_blocks(p1: int, p2: int, segments: int, boundary: int) -> Labels:
    """FedSPZO: every sign of p1 directions in block 1 with every sign of p2 of its own in block 2."""
    rows = []
    for i in range(p1):
        for sign1 in (1, -1):
            for j in range(p2):
                for sign2 in (1, -1):
                    second = sign2 * (p1 + i * p2 + j + 1)
                    rows.append([sign1 * (i + 1)] * boundary + [second] * (segments - boundary))
    return np.array(rows, np.int32)


def check_plan(labels: Labels, by_level: bool = False) -> Plan:
    """Replays a plan symbolically: every slot holds the labels that made it, every loss is the right one."""
    plan, evaluations, segments = Plan(labels, by_level), *labels.shape
    held: dict[int, tuple[int, ...]] = {0: ()}
    seen: set[tuple[int, ...]] = set()
    answered: dict[int, tuple[int, ...]] = {}
    for segment, label, source, target, below in plan.runs:
        state = held[source]
        assert len(state) == segment
        state = (*state, label)
        assert state not in seen, "a segment ran twice on the same input"
        seen.add(state)
        if segment == segments - 1:
            answered |= dict.fromkeys(below, state)
        else:
            assert 0 <= target < plan.slots
            held[target] = state
    assert answered == {e: tuple(labels[e].tolist()) for e in range(evaluations)}
    assert seen == {tuple(row[: p + 1]) for row in labels.tolist() for p in range(segments)}
    return plan


@pytest.mark.parametrize("seed", range(20))
def test_any_strings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (rng.integers(1, 40), rng.integers(1, 7))
    check_plan(rng.integers(-2, 3, shape).astype(np.int32))


@pytest.mark.parametrize("first_active", range(7))
def test_directions_that_start_at_a_segment_cost_one_prefix_and_2q_suffixes(first_active: int) -> None:
    q, segments = 5, 7
    plan = check_plan(plain(q, segments, first_active))
    assert len(plan.runs) == first_active + 2 * q * (segments - first_active)
    assert plan.slots == (2 if first_active < segments - 1 else 1)  # the head keeps nothing


def test_two_blocks_cost_the_formula() -> None:
    p1, p2, segments, boundary = 2, 3, 7, 4
    plan = check_plan(two_blocks(p1, p2, segments, boundary))
    assert len(plan.runs) == 2 * p1 * boundary + 4 * p1 * p2 * (segments - boundary)
    assert plan.slots == 3


def test_equal_strings_are_run_once() -> None:
    assert len(check_plan(np.array([[1, 2], [1, 2], [1, 2]], np.int32)).runs) == 2


def check_levels(labels: Labels) -> Plan:
    """A plan in streaming order is a plan, level by level, and holds no more states than a level has."""
    plan = check_plan(labels, by_level=True)
    runs, head = plan.runs, labels.shape[1] - 1
    assert [run[0] for run in runs] == sorted(run[0] for run in runs)
    for segment in range(head):  # one perturbation a label
        of_segment = [label for position, label, *_ in runs if position == segment]
        assert sum(a != b for a, b in pairwise(of_segment)) + 1 == len(set(of_segment))
    states = [source for position, _, source, *_ in runs if position == head]
    assert sum(a != b for a, b in pairwise(states)) + 1 == len(set(states))
    assert plan.slots == len({tuple(row[:-1]) for row in labels.tolist()})
    assert len(runs) == len(Plan(labels).runs)
    return plan


@pytest.mark.parametrize("seed", range(20))
def test_streaming_order_of_any_strings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (rng.integers(1, 40), rng.integers(1, 7))
    check_levels(rng.integers(-2, 3, shape).astype(np.int32))


@pytest.mark.parametrize("first_active", range(7))
def test_streaming_order_holds_two_states_a_direction(first_active: int) -> None:
    q, segments = 5, 7
    plan = check_levels(plain(q, segments, first_active))
    assert plan.slots == (2 * q if first_active < segments - 1 else 1)


def test_streaming_order_of_two_blocks() -> None:
    p1, p2, boundary = 2, 3, 4
    plan = check_levels(two_blocks(p1, p2, 7, boundary))
    assert plan.slots == 4 * p1 * p2
    assert [run[1] for run in plan.runs if run[0] == 0] == [1, -1, 2, -2]


def test_the_core_runs_what_the_plan_says(toy: Toy) -> None:
    q, batches = 4, [toy.batch(1), toy.batch(2)]
    for first_active in range(3):
        toy.core.reset_counters()
        directions = [Direction(seed) for seed in range(q)]
        toy.core.measure(batches, directions, 1e-3, list(range(first_active, 3)))
        expected = [len(batches) * (1 if segment < first_active else 2 * q) for segment in range(3)]
        assert toy.core.counters.segment_runs == expected
        assert toy.core.counters.embed_runs == len(batches)


def test_shared_prefixes_change_no_loss(toy: Toy) -> None:
    labels = two_blocks(2, 2, 3, 1)
    directions = [Direction(seed) for seed in range(6)]
    batches = [toy.batch(1), toy.batch(2, tokens=16)]

    def losses(core: Core, rows: Labels) -> list[float]:
        sums: list[float] = core.losses(batches, directions, 1e-3, rows)[0].tolist()
        return sums

    before = toy.core.adapter.copy()
    toy.core.reset_counters()
    together = losses(toy.core, labels)
    assert toy.core.counters.segment_runs == [2 * 4, 2 * 16, 2 * 16]
    assert together == [losses(toy.core, labels[e : e + 1])[0] for e in range(len(labels))]
    assert toy.core.adapter.tobytes() == before.tobytes()
    assert len(set(together)) == len(together)
