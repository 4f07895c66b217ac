"""What streaming order refuses and when; the adapter is as it was, and other work may begin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from device_runtime.core import Batch, Core, CoreError, Direction, Measurement

from .conftest import Toy
from .test_measure import ALL, EPSILON, bits
from .test_streaming import CASES, answer, drive


def refused(call: Callable[[], Any]) -> CoreError:
    with pytest.raises(CoreError) as error:
        call()
    assert "\n" not in str(error.value)
    return error.value


def test_calls_out_of_order_change_nothing(toy: Toy) -> None:
    core, batches, directions = toy.core, [toy.batch(1)], [Direction(1)]
    expected = core.measure(batches, directions, EPSILON, ALL)
    for call in (core.advance, core.finish):
        assert refused(call).status == "BAD_ARGUMENT"
    core.abandon()
    core.begin(batches, directions, EPSILON, ALL)
    labels = np.ones((1, 3), np.int32)
    for busy in (
        lambda: core.begin(batches, directions, EPSILON, ALL),
        lambda: core.measure(batches, directions, EPSILON, ALL),
        lambda: core.losses(batches, directions, EPSILON, labels),
        lambda: core.slopes(batches, [Direction(1, active_segments=[2])], EPSILON),
        lambda: core.update(EPSILON, 1, ALL, directions, [1.0]),
        core.clear_guides,
        core.finish,
    ):
        error = refused(busy)
        assert error.status == "BAD_ARGUMENT"
        assert "finish or abandon" in str(error) or "segment 0 has not run: advance first" in str(error)
    for _segment in ALL:
        core.advance()
    assert "finish the measurement" in str(refused(core.advance))
    assert answer(core.finish()) == answer(expected)
    assert refused(core.finish).status == "BAD_ARGUMENT"


@pytest.mark.parametrize(
    ("direction", "epsilon", "active"),
    [
        (Direction(1), 0.0, ALL),
        (Direction(1), float("nan"), ALL),
        (Direction(1, float("inf")), EPSILON, ALL),
        (Direction(1, 1.0, [(0, float("nan"))]), EPSILON, ALL),
        (Direction(1, 1.0, [(3, 1.0)]), EPSILON, ALL),
        (Direction(1), EPSILON, [3]),
        (Direction(1, 1.0, [], [2, 2]), EPSILON, ALL),
    ],
)
def test_what_needs_no_guide_is_refused_before_anything_runs(
    toy: Toy, direction: Direction, epsilon: float, active: list[int]
) -> None:
    toy.core.clear_guides(1)
    toy.core.reset_counters()
    assert (
        refused(lambda: toy.core.begin([toy.batch(1)], [direction], epsilon, active)).status == "BAD_ARGUMENT"
    )
    assert refused(lambda: toy.core.begin([], [Direction(1)], EPSILON, ALL)).status == "BAD_ARGUMENT"
    assert refused(lambda: toy.core.begin([toy.batch(1)], [], EPSILON, ALL)).status == "BAD_ARGUMENT"
    assert toy.core.counters.embed_runs == 0
    assert toy.core.measure([toy.batch(1)], [Direction(1)], EPSILON, ALL).rho.shape == (1,)


def check_ends(core: Core, status: str, begin: Callable[[], list[int]], segments: int) -> None:
    """The call after so many segments fails, and leaves the adapter and an idle core."""
    before = bits(core.adapter)
    begin()
    for _ in range(segments):
        core.advance()
    assert refused(core.advance).status == status
    assert bits(core.adapter) == before
    assert "has begun" in str(refused(core.advance))
    core.resume()
    begin()
    core.abandon()


@pytest.mark.parametrize("value", [np.float32(1e8), np.float32(np.nan)])
def test_out_of_range_or_not_finite_in_a_later_segment(toy: Toy, value: np.float32) -> None:
    guide = np.full(toy.layout.parameters, value, np.float32)
    toy.core.clear_guides(1)
    toy.core.set_guide(0, 2, guide[toy.layout.segment_slice(2)])
    directions = [Direction(1), Direction(2, 1.0, [(0, 1.0)])]

    def begin() -> list[int]:
        return toy.core.begin([toy.batch(1)], directions, EPSILON, ALL)

    check_ends(toy.core, "NOT_FINITE" if np.isnan(value) else "OUT_OF_RANGE", begin, 2)
    begin()
    toy.core.advance()
    toy.core.advance()
    assert str(refused(toy.core.advance)).startswith("direction 1: ")


def test_below_the_grid_is_known_at_the_end(toy: Toy) -> None:
    """One small segment is no fault; the whole direction is, and a large enough epsilon is named."""
    batches = [toy.batch(1)]

    def streamed(epsilon: float) -> Measurement:
        return drive(toy, batches, CASES["isotropic"], {}, epsilon)

    before = bits(toy.core.adapter)
    error = refused(lambda: streamed(1e-7))
    assert error.status == "BELOW_GRID"
    assert str(error).startswith("direction 0: rounding changes it by over 2 %")
    assert bits(toy.core.adapter) == before
    enough = float(str(error).split("epsilon ")[1].split(",")[0]) * 1.000001
    whole = toy.core.measure(batches, CASES["isotropic"].directions, enough, ALL)
    assert answer(streamed(enough)) == answer(whole)
    scale = np.ones(toy.layout.parameters, np.float32)
    scale[toy.layout.segment_slice(0)] = 1e-4
    toy.core.set_scale(scale)
    whole = toy.core.measure(batches, CASES["isotropic"].directions, EPSILON, ALL)
    assert answer(streamed(EPSILON)) == answer(whole)


def test_a_loss_that_is_not_finite(toy: Toy) -> None:
    toy.core.adapter[toy.layout.segment_slice(2)] = np.inf
    check_ends(
        toy.core,
        "LOSS_NOT_FINITE",
        lambda: toy.core.begin([toy.batch(1)], [Direction(1)], EPSILON, [0, 1]),
        2,
    )


def test_a_program_that_fails(toy: Toy) -> None:
    outside = Batch(np.full((4, 8), 10_000), np.ones((4, 8), np.int64), np.zeros(4, np.int64), np.ones(4))
    error = refused(lambda: toy.core.begin([toy.batch(1), outside], [Direction(1)], EPSILON, ALL))
    assert error.status == "PROGRAM_FAILED"
    assert toy.core.measure([toy.batch(1)], [Direction(1)], EPSILON, ALL).rho.shape == (1,)


@pytest.mark.parametrize("segments", [0, 1, 2])
def test_stopped_between_two_segments(toy: Toy, segments: int) -> None:
    before = bits(toy.core.adapter)
    toy.core.begin([toy.batch(1)], [Direction(1)], EPSILON, ALL)
    for _ in range(segments):
        toy.core.advance()
    toy.core.stop()
    assert refused(toy.core.advance).status == "STOPPED"
    assert bits(toy.core.adapter) == before
    toy.core.resume()
    assert "has begun" in str(refused(toy.core.advance))
