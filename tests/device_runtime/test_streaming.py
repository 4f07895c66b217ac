"""The order of a step's directions against a simulator of the device: what is held, and when it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from device_runtime.streaming import Order, Sizes, choose, streamed_bytes, whole_bytes


class Seconds(NamedTuple):
    """By segment: on the link, of one direction's work."""

    link: tuple[float, ...]
    run: tuple[float, ...]


class Simulated(NamedTuple):
    most_bytes: int
    makespan_s: float


def simulate(sizes: Sizes, group: int, times: Seconds) -> Simulated:
    """A device, step by step, without a clock: what lies in its memory, and the times of the flow shop."""
    segments = range(len(sizes.guide_bytes))
    arrived_s = np.cumsum(times.link)
    if group == 0:
        return Simulated(sum(sizes.guide_bytes), float(arrived_s[-1]) + sizes.directions * sum(times.run))
    now_s, most = 0.0, 0
    held: dict[int, int] = {}
    for first in range(0, sizes.directions, group):
        together = min(group, sizes.directions - first)
        states = [sizes.state_bytes] * (2 * together)
        for segment in segments:
            held[segment] = sizes.guide_bytes[segment]
            if segment + 1 in segments:  # arrives, or is decoded, while this one runs
                held[segment + 1] = sizes.guide_bytes[segment + 1]
            most = max(most, sum(held.values()) + sum(states) + sizes.context_bytes)
            now_s = max(now_s, float(arrived_s[segment])) + together * times.run[segment]
            del held[segment]
        assert not held
    return Simulated(most, now_s)


def drawn(seed: int) -> tuple[Sizes, Seconds]:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 9))
    guides = tuple(int(size) for size in rng.integers(0, 1000, count) * (rng.random(count) < 0.8))
    sizes = Sizes(guides, int(rng.integers(0, 400)), int(rng.integers(1, 34)), int(rng.integers(0, 50)))
    link, run = rng.exponential(rng.choice([0.1, 1.0, 10.0], 2)[:, None], (2, count))
    return sizes, Seconds(tuple(link.tolist()), tuple(run.tolist()))


@pytest.mark.parametrize("seed", range(60))
def test_bytes_are_those_of_the_simulator(seed: int) -> None:
    sizes, times = drawn(seed)
    assert whole_bytes(sizes) == simulate(sizes, 0, times).most_bytes
    two_largest = sum(sorted(sizes.guide_bytes)[-2:])
    for group in range(1, sizes.directions + 1):
        held = streamed_bytes(sizes, group)
        assert held == simulate(sizes, group, times).most_bytes
        assert held - 2 * group * sizes.state_bytes - sizes.context_bytes <= two_largest


@pytest.mark.parametrize("seed", range(60))
def test_nothing_that_fits_is_faster(seed: int) -> None:
    """All orders by brute force, under limits around every one of them."""
    sizes, times = drawn(seed)
    ways = {group: simulate(sizes, group, times) for group in range(sizes.directions + 1)}
    for limit in {way.most_bytes + shift for way in ways.values() for shift in (-1, 0, 1)}:
        chosen = choose(sizes, limit)
        assert chosen.held_bytes == ways[chosen.group].most_bytes
        fitting = [way for way in ways.values() if way.most_bytes <= limit]
        if fitting and any(sizes.guide_bytes):
            assert chosen.held_bytes <= limit
            fastest_s = min(way.makespan_s for way in fitting)
            assert ways[chosen.group].makespan_s <= fastest_s * (1 + 1e-9)
        elif not fitting:
            assert chosen.held_bytes == min(way.most_bytes for way in ways.values())


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (lambda: choose(Sizes((10, 30, 20), 5, 4), 90), Order(4, 90)),
        (lambda: choose(Sizes((10, 30, 20), 5, 4), 89), Order(3, 80)),
        (lambda: choose(Sizes((10, 30, 20), 100, 4), 60), Order(0, 60)),
        (lambda: choose(Sizes((10, 30, 20), 100, 4), 0), Order(0, 60)),
        (lambda: choose(Sizes((10, 30, 20), 1, 4), 0), Order(1, 52)),
        (lambda: choose(Sizes((10, 30, 20), 1, 8, unit=3), 57), Order(3, 56)),
        (lambda: choose(Sizes((10, 30, 20), 1, 8, unit=3), 54), Order(2, 54)),
        (lambda: choose(Sizes((10, 30, 20), 1, 8, unit=3), 66), Order(8, 66)),
        (lambda: choose(Sizes((), 5, 4), 90), Order(0, 0)),
        (lambda: choose(Sizes((40,), 5, 4)), Order(4, 80)),
    ],
)
def test_by_hand(chosen: Callable[[], Order], expected: Order) -> None:
    assert chosen() == expected


def test_streaming_order_is_the_flow_shop() -> None:
    """C(l, k) = max(C(l - 1, k), C(l, k - 1)) + p(l, k), and the gain where link and device are equal."""
    _, times = drawn(5)
    sizes = Sizes(tuple(1 for _ in times.link), 1, 3)
    before = [0.0] * len(times.link)
    for stage in (times.link, tuple(3 * run for run in times.run)):
        row: list[float] = []
        for k, took_s in enumerate(stage):
            row.append(max(before[k], row[-1] if row else 0.0) + took_s)
        before = row
    assert simulate(sizes, 3, times).makespan_s == pytest.approx(before[-1])
    balanced = Seconds((1.0,) * 8, (0.25,) * 8)
    eight = Sizes((1,) * 8, 1, 4)
    assert simulate(eight, 0, balanced).makespan_s == 16.0
    assert simulate(eight, 4, balanced).makespan_s == 9.0
