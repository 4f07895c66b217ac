"""A chain that ends early, on the toy program: the bits that its parts give, and only its methods loaded."""

from __future__ import annotations

import numpy as np
import pytest

from device_runtime.core import Batch, CoreError, Direction
from device_runtime.zo import direction as zo
from device_runtime.zo import spsa

from .conftest import Toy
from .test_measure import ALL, EPSILON, bits

ARRAYS = ("ids", "mask", "labels", "weights")


def arrays(toy: Toy, seed: int) -> dict[str, np.ndarray]:
    rng, rows = np.random.default_rng(seed), toy.shape["batch_examples"]
    labels, weights = rng.integers(0, toy.shape["classes"], rows), np.array([1.0, 0.5, 1.0, 0.0])
    ids = rng.integers(0, toy.shape["vocabulary"], (rows, 8))
    return dict(zip(ARRAYS, (ids, np.ones((rows, 8), np.int64), labels, weights), strict=True))


def test_an_exit_behind_the_last_segment_changes_no_bit(toy: Toy) -> None:
    batches, directions = [toy.batch(1), toy.batch(2, tokens=16)], [Direction(1), Direction(2)]
    whole = toy.core.measure(batches, directions, EPSILON, ALL)
    assert bits(toy.core.measure(batches, directions, EPSILON, ALL, 2, 0.0).rho) == bits(whole.rho)
    assert toy.core.evaluate(batches, 2) == toy.core.evaluate(batches)


def test_the_head_takes_what_leaves_the_exit(toy: Toy) -> None:
    given = list(arrays(toy, 3).values())
    left = toy.core.hidden(Batch(*given), 1)
    entering_the_head = Batch(*given, left, 2)
    toy.core.unload_except([])
    toy.core.reset_counters()
    ended = toy.core.evaluate([Batch(*given)], 1)
    assert toy.core.loaded_methods == ["embed", "segment_0", "head"]
    assert toy.core.counters.segment_runs == [1, 0, 1]
    assert ended == toy.core.evaluate([entering_the_head])
    assert ended == toy.core.evaluate([Batch(*given, left, 1)], 1)  # at the exit, the head alone runs
    assert ended != toy.core.evaluate([Batch(*given)])


@pytest.mark.parametrize("active", [[0, 2], [0], [2]])
def test_rho_equals_the_twin(toy: Toy, active: list[int]) -> None:
    batches, before = [toy.batch(1), toy.batch(2, tokens=16)], toy.core.adapter.copy()

    def loss(adapter: np.ndarray) -> float:
        toy.core.adapter[:] = adapter
        loss_sum, count, _ = toy.core.evaluate(batches, 1)
        return loss_sum / count

    toy.core.reset_counters()
    measured = toy.core.measure(batches, [Direction(5), Direction(6)], EPSILON, active, 1)
    first = 2 * 4 if 0 in active else 2
    assert toy.core.counters.segment_runs == [first, 0, 2 * 4]
    assert bits(toy.core.adapter) == bits(before)
    for rho, seed in zip(measured.rho, (5, 6), strict=True):
        direction = zo.Direction(seed, active_segments=tuple(active))
        assert rho == spsa.projected_gradient(loss, before.copy(), toy.layout, direction, EPSILON)
        assert rho != 0.0


def test_methods_are_loaded_by_the_call_that_runs_them_and_freed_when_told(toy: Toy) -> None:
    core = toy.open()
    core.adapter[:] = toy.core.adapter
    assert core.loaded_methods == []
    expected = toy.core.evaluate([toy.batch(1)])
    assert core.evaluate([toy.batch(1)]) == expected
    assert core.loaded_methods == ["embed", "segment_0", "segment_1", "head"]
    core.unload_except([1])
    assert core.loaded_methods == ["embed", "segment_1", "head"]
    assert core.evaluate([toy.batch(1)]) == expected
    assert core.counters.method_loads == 5
    core.unload_except([], [0])
    core.load_methods()
    assert core.counters.method_loads == 7
    assert core.evaluate([toy.batch(1)]) == expected
    assert core.counters.method_loads == 7
    assert core.auxiliary_segments == []


def test_what_is_refused(toy: Toy) -> None:
    def refused(words: str, active: list[int], exit_segment: int, global_weight: float = 0.0) -> None:
        with pytest.raises(CoreError, match=words) as error:
            toy.core.measure([toy.batch(1)], [Direction(1)], EPSILON, active, exit_segment, global_weight)
        assert error.value.status == "BAD_ARGUMENT"

    toy.core.unload_except([])
    refused("perturbs segment 1, which does not run", ALL, 1)
    refused("use 1 to 2, or 0 for the whole chain", [0], 3)
    refused("no auxiliary branch", [0], 1, 0.5)
    refused("finite and not negative", [0], 1, -0.5)
    refused("finite and not negative", [0], 1, float("inf"))
    assert "segment_0" not in toy.core.loaded_methods
    labels = np.array([[1, 0, 1], [0, -1, 0]], np.int32)
    with pytest.raises(CoreError, match="which does not run"):
        toy.core.losses([toy.batch(1)], [Direction(1)], EPSILON, labels, 1)
