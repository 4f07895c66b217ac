"""Directions, restore, estimator and update: unbiased, bitwise, and refused where they must be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.zo import spsa
from device_runtime.zo.direction import Direction, Guide, check, expand, realised, rounded
from device_runtime.zo.errors import BelowGrid, NotFinite, OutOfRange, ZoError
from device_runtime.zo.grid import round_to_grid
from device_runtime.zo.layout import Layout

LAYOUT = Layout.build([("a", 0, (70,), 20), ("b", 1, (5, 9), 18), ("head", 2, (16,), 20)])
N = LAYOUT.parameters


def some_adapter(seed: int = 0) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).uniform(-2, 2, N).astype(np.float32)
    adapter = np.zeros(N, np.float32)
    for tensor in LAYOUT.tensors:
        adapter[tensor.span] = round_to_grid(values[tensor.span], tensor.exponent)
    return adapter


def some_guide(seed: int, coefficient: float = 0.5) -> Guide:
    return Guide(np.random.default_rng(seed).normal(size=N).astype(np.float32), coefficient)


def test_rounding_keeps_a_well_sized_direction() -> None:
    direction = Direction(3, 0.7, guides=(some_guide(1), some_guide(2, -0.25)))
    check(direction, LAYOUT, 1e-3)
    z = realised(rounded(direction, LAYOUT, 1e-3), LAYOUT, 1e-3)
    exact = realised(rounded(direction, LAYOUT, 1.0), LAYOUT, 1.0)
    assert np.linalg.norm(z - exact) < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("epsilon", [3e-7, 1e-6, 1e-9])
def test_the_epsilon_and_the_exponents_that_a_refusal_names_do(epsilon: float) -> None:
    direction = Direction(3, 0.7, guides=(some_guide(1),))
    with pytest.raises(BelowGrid) as refused:
        check(direction, LAYOUT, epsilon)
    assert refused.value.epsilon is not None
    assert refused.value.exponent_increase is not None
    assert repr(refused.value.epsilon) in str(refused.value)
    check(direction, LAYOUT, refused.value.epsilon)
    with pytest.raises(BelowGrid):
        check(direction, LAYOUT, refused.value.epsilon / 2)
    more = refused.value.exponent_increase
    finer = Layout.build([(t.name, t.segment, t.shape, t.exponent + more) for t in LAYOUT.tensors])
    check(direction, finer, epsilon)


def test_a_direction_that_no_epsilon_saves_is_refused_in_words() -> None:
    """One value takes the whole range while the others, with half of the norm, stay below half a step."""
    layout = Layout.build([("coarse", 0, (1000,), -10), ("fine", 1, (1,), 20)])
    values = np.full(layout.parameters, 1.0 / np.sqrt(1000), np.float32)
    values[-1] = 1.0
    direction = Direction(0, 0.0, guides=(Guide(values, 1.0),))
    with pytest.raises(BelowGrid, match="at every epsilon") as refused:
        check(direction, layout, 1e-3)
    assert refused.value.epsilon is None
    assert refused.value.exponent_increase is None


def test_bad_directions_are_refused_before_the_adapter_moves() -> None:
    adapter = some_adapter()
    before = adapter.tobytes()
    with_nan = some_guide(1)
    with_nan.values[3] = np.nan
    cases: list[tuple[Direction, float, type[ZoError]]] = [
        (Direction(1, 1e10), 1e-3, OutOfRange),
        (Direction(1, guides=(with_nan,)), 1e-3, NotFinite),
        (Direction(1, float("nan")), 1e-3, ZoError),
        (Direction(1), 0.0, ZoError),
        (Direction(1), float("inf"), ZoError),
        (Direction(1), 1e-8, BelowGrid),
    ]
    for direction, epsilon, error in cases:
        with pytest.raises(error):
            spsa.projected_gradient(lambda theta: 0.0, adapter, LAYOUT, direction, epsilon)
        assert adapter.tobytes() == before


def test_rho_is_the_slope_of_a_linear_loss_and_the_adapter_is_restored() -> None:
    adapter = some_adapter()
    before = adapter.tobytes()
    gradient = np.random.default_rng(5).normal(size=N)
    direction = Direction(8, 0.5, guides=(some_guide(3),), active_segments=(1, 2))
    rho = spsa.projected_gradient(
        lambda theta: float(gradient @ theta.astype(np.float64)), adapter, LAYOUT, direction, 1e-3
    )
    z = realised(rounded(direction, LAYOUT, 1e-3), LAYOUT, 1e-3)
    assert not np.any(z[LAYOUT.segment_slice(0)])
    assert rho == pytest.approx(gradient @ z, rel=1e-9)
    assert adapter.tobytes() == before


@pytest.mark.parametrize("failing_call", [1, 2])
def test_the_adapter_is_restored_when_the_loss_fails(failing_call: int) -> None:
    adapter = some_adapter()
    before = adapter.tobytes()
    calls = itertools.count(1)

    def loss(theta: NDArray[np.float32]) -> float:
        if next(calls) == failing_call:
            raise KeyError("loss")
        return 1.0

    with pytest.raises(KeyError):
        spsa.projected_gradient(loss, adapter, LAYOUT, Direction(1), 1e-3)
    assert adapter.tobytes() == before
    with pytest.raises(NotFinite):
        spsa.projected_gradient(lambda theta: float("nan"), adapter, LAYOUT, Direction(1), 1e-3)
    assert adapter.tobytes() == before


def test_the_estimate_of_a_gradient_is_unbiased() -> None:
    """Sum of rho z' over m directions / m has mean g (E[v v^T] = 1) and deviation |g| / sqrt(m) an entry."""
    gradient = np.random.default_rng(6).normal(size=N)
    directions = expand(Direction(100, 1.0), 1000)
    total = np.zeros(N)
    for direction in directions:
        z = realised(rounded(direction, LAYOUT, 1e-3), LAYOUT, 1e-3)
        total += (gradient @ z) * z
    # The grid's own rounding of a sign is the same for every entry of a tensor, so that it only scales.
    deviation = np.linalg.norm(gradient) / np.sqrt(len(directions))
    error = total / len(directions) - gradient
    assert np.max(np.abs(error)) < 5 * deviation
    assert abs(np.mean(error)) < 5 * deviation / np.sqrt(N)


def test_stochastic_rounding_is_unbiased_for_steps_below_the_grid() -> None:
    """The mean of m roundings of a step x has deviation sqrt(x (1 - x) / m) grid steps."""
    layout = Layout.build([("w", 0, (2**16,), 20)])
    for share in (0.25, 0.01, -0.4, 1.75):
        adapter = np.zeros(layout.parameters, np.float32)
        step = Guide(np.full(layout.parameters, share, np.float32), 2.0**-20)
        spsa.apply_update(adapter, layout, spsa.Update(1e-3, 77, (), (), (step,)))
        moved = adapter.astype(np.float64) * 2.0**20
        assert set(np.unique(moved)) <= {np.floor(share), np.floor(share) + 1}
        fraction = share - np.floor(share)
        assert abs(np.mean(moved) - share) < 5 * np.sqrt(fraction * (1 - fraction) / len(moved))


def test_an_update_moves_the_active_segments_alone() -> None:
    adapter = some_adapter()
    before = adapter.copy()
    update = spsa.Update(1e-3, 5, (Direction(1), Direction(2, active_segments=(0,))), (0.5, 0.5), (), (1, 2))
    spsa.apply_update(adapter, LAYOUT, update)
    changed = adapter != before
    assert not np.any(changed[LAYOUT.segment_slice(0)])
    assert np.all(changed[LAYOUT.segment_slice(1)])
    only_first = some_adapter()
    spsa.apply_update(only_first, LAYOUT, spsa.Update(1e-3, 5, (Direction(1),), (0.5,), (), (1, 2)))
    assert np.array_equal(only_first, adapter)


def test_an_update_that_fails_writes_nothing() -> None:
    adapter = some_adapter()
    before = adapter.tobytes()
    late = some_guide(1)
    late.values[-1] = np.inf
    with pytest.raises(NotFinite):
        spsa.apply_update(adapter, LAYOUT, spsa.Update(1e-3, 5, (Direction(1),), (0.5,), (late,)))
    assert adapter.tobytes() == before
    with pytest.raises(NotFinite):
        spsa.Update(1e-3, 5, (Direction(1),), (float("nan"),))
    with pytest.raises(ZoError):
        spsa.Update(1e-3, 5, (Direction(1),), ())


def test_clamping_stops_one_step_inside_the_bound_and_counts() -> None:
    adapter = np.zeros(N, np.float32)
    push = Guide(np.full(N, 100.0, np.float32), 1.0)
    clamped = spsa.apply_update(adapter, LAYOUT, spsa.Update(1e-3, 5, (), (), (push,)))
    assert clamped == N
    LAYOUT.check(adapter)
    for tensor in LAYOUT.tensors:
        assert set(adapter[tensor.span]) == {np.float32((2**23 - 1) * 2.0**-tensor.exponent)}


def test_local_steps_find_the_minimum_of_a_parabola() -> None:
    layout = Layout.build([("a", 0, (9,), 20), ("b", 1, (7,), 18)])
    adapter = np.zeros(layout.parameters, np.float32)
    goal = np.random.default_rng(9).uniform(-2, 2, layout.parameters)

    def loss(theta: NDArray[np.float32]) -> float:
        return float(np.sum((theta.astype(np.float64) - goal) ** 2))

    start = loss(adapter)
    for step in range(40):
        directions = expand(Direction(1000 * step), 16)
        spsa.local_update(loss, adapter, layout, directions, 1e-3, 0.2, update_seed=step)
    layout.check(adapter)
    assert loss(adapter) < 1e-3 * start


def test_a_local_update_without_a_rate_changes_nothing_and_uses_the_wire_form() -> None:
    adapter = some_adapter()
    before = adapter.tobytes()

    def loss(theta: NDArray[np.float32]) -> float:
        return float(np.sum(theta.astype(np.float64)))

    directions = expand(Direction(2**64 - 1), 2)
    assert [direction.seed for direction in directions] == [2**64 - 1, 0]
    exact = spsa.local_update(loss, adapter, LAYOUT, directions, 1e-3, 0.0, 1)
    assert adapter.tobytes() == before
    clipped = spsa.local_update(
        loss, adapter, LAYOUT, directions, 1e-3, 0.1, 1, lambda rho: min(max(rho, -0.5), 0.5)
    )
    assert clipped == [min(max(rho, -0.5), 0.5) for rho in exact]
    expected = some_adapter()
    coefficients = tuple(-0.1 * rho / 2 for rho in clipped)
    spsa.apply_update(expected, LAYOUT, spsa.Update(1e-3, 1, tuple(directions), coefficients))
    assert adapter.tobytes() == expected.tobytes()
