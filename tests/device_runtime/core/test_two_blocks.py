"""FedSPZO's two blocks: neighbours share the first block's noise and its runs; P2 = 1 is SPSA."""

from __future__ import annotations

import numpy as np
import pytest

from device_runtime.core import Direction
from device_runtime.zo import direction as zo
from device_runtime.zo import spsa

from .conftest import Toy
from .test_measure import ALL, EPSILON, bits, twin_loss


def two_blocks(p1: int, p2: int, boundary: int) -> list[Direction]:
    """P1 groups of P2 directions; the first of a group has the seed of the group's prefix."""
    return [
        Direction(100 + number, boundary=boundary, prefix_seed=100 + number - number % p2)
        for number in range(p1 * p2)
    ]


@pytest.mark.parametrize("boundary", [1, 2])
def test_one_perturbation_of_the_second_block_is_plain_spsa(toy: Toy, boundary: int) -> None:
    batches = [toy.batch(1), toy.batch(2, tokens=16)]
    plain = toy.core.measure(batches, [Direction(100 + d) for d in range(4)], EPSILON, ALL)
    blocks = toy.core.measure(batches, two_blocks(4, 1, boundary), EPSILON, ALL)
    assert bits(blocks.rho) == bits(plain.rho)


@pytest.mark.parametrize(("p1", "p2", "boundary"), [(2, 3, 1), (2, 3, 2), (1, 5, 2), (3, 2, 1)])
def test_segment_runs_are_those_of_the_formula(toy: Toy, p1: int, p2: int, boundary: int) -> None:
    before = toy.core.adapter.copy()
    toy.core.reset_counters()
    toy.core.measure([toy.batch(1)], two_blocks(p1, p2, boundary), EPSILON, ALL)
    expected = [2 * p1 if segment < boundary else 2 * p1 * p2 for segment in ALL]
    assert toy.core.counters.segment_runs == expected
    assert bits(toy.core.adapter) == bits(before)


def test_rho_and_update_equal_the_twin(toy: Toy) -> None:
    batches = [toy.batch(1), toy.batch(2)]
    before = toy.core.adapter.copy()
    directions = two_blocks(2, 2, 2)
    twins = zo.expand(zo.Direction(100, boundary=2, prefix_seed=100), 4, per_prefix=2)
    measured = toy.core.measure(batches, directions, EPSILON, ALL)
    for rho, twin in zip(measured.rho, twins, strict=True):
        loss = twin_loss(toy.core, batches)
        assert rho == spsa.projected_gradient(loss, before.copy(), toy.layout, twin, EPSILON)
    toy.core.adapter[:] = before
    coefficients = [0.25, -0.5, 1.0, 0.125]
    toy.core.update(EPSILON, 7, ALL, directions, coefficients, [])
    wanted = before.copy()
    spsa.apply_update(wanted, toy.layout, spsa.Update(EPSILON, 7, tuple(twins), tuple(coefficients)))
    assert bits(toy.core.adapter) == bits(wanted)
    # In the first block the two of a group are one direction; in the second they are not.
    first, second = (zo.rounded(twin, toy.layout, EPSILON) for twin in twins[:2])
    block = toy.layout.segment_slice(2).start
    assert np.array_equal(first[:block], second[:block])
    assert not np.array_equal(first[block:], second[block:])


def test_other_guides_or_active_segments_share_nothing(toy: Toy) -> None:
    toy.core.reset_counters()
    directions = [
        Direction(1, boundary=2, prefix_seed=1),
        Direction(2, isotropic_scale=0.5, boundary=2, prefix_seed=1),
        Direction(3, boundary=2, prefix_seed=1, active_segments=[1, 2]),
    ]
    toy.core.measure([toy.batch(1)], directions, EPSILON, ALL)
    assert toy.core.counters.segment_runs == [5, 6, 6]
