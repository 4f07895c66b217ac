"""Streaming order: one segment a call, guides of that segment alone, and the bits of `measure`."""

from __future__ import annotations

import gc
import weakref
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.core import Batch, Direction, Measurement

from .conftest import Toy
from .test_measure import ALL, EPSILON, bits, guide_of, set_guide
from .test_two_blocks import two_blocks

Guides = dict[int, NDArray[np.float32]]  # whole vectors, by index


class Case(NamedTuple):
    """What is measured; `guides` lie in every segment."""

    directions: list[Direction]
    active: list[int] = ALL
    exit_segment: int = 0
    guides: int = 0
    scale: bool = False


CASES = {
    "isotropic": Case([Direction(seed) for seed in (1, 2**64 - 1, 77)]),
    "one direction": Case([Direction(5)]),
    "guides": Case(
        [Direction(9, 0.7, [(1, -2.0), (0, 0.25)]), Direction(10, 1.0, [(0, 1.0)])], ALL, 0, 2, True
    ),
    "guides alone": Case([Direction(0, 0.0, [(0, 1.0)]), Direction(3)], ALL, 0, 1),
    "own segments": Case(
        [Direction(1, 0.5, [(0, 2.0)], [0, 1]), Direction(2, active_segments=[2])], ALL, 0, 1
    ),
    "from a segment on": Case([Direction(1), Direction(2)], [1, 2]),
    "with a gap": Case([Direction(1), Direction(2)], [0, 2]),
    "the head alone": Case([Direction(1), Direction(2), Direction(3)], [2]),
    "nothing moves": Case([Direction(1)], []),
    "two blocks": Case(two_blocks(2, 3, 1)),
    "two blocks before the head": Case(two_blocks(3, 2, 2)),
    "an early exit": Case([Direction(1), Direction(2)], [0, 2], 1),
}


def guides_of(toy: Toy, count: int) -> Guides:
    return {index: guide_of(toy, ALL, 6 + index) for index in range(count)}


def drive(
    toy: Toy, batches: list[Batch], case: Case, guides: Guides, epsilon: float = EPSILON
) -> Measurement:
    """Streaming order as a device does it: each slice is set for one call and gone after it."""
    toy.core.clear_guides(len(guides))
    before = bits(toy.core.adapter)
    for segment in toy.core.begin(batches, case.directions, epsilon, case.active, case.exit_segment):
        for index, values in guides.items():
            toy.core.set_guide(index, segment, values[toy.layout.segment_slice(segment)].copy())
        toy.core.advance()
        assert bits(toy.core.adapter) == before
        for index in guides:
            toy.core.clear_guide(index, segment)
    return toy.core.finish()


def answer(found: Measurement) -> tuple[bytes, bytes, bytes]:
    return bits(found.rho), bits(found.loss_plus), bits(found.loss_minus)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("poisoned", [False, True])
def test_the_bits_are_those_of_measure(toy: Toy, name: str, poisoned: bool) -> None:
    case, guides = CASES[name], guides_of(toy, CASES[name].guides)
    batches = [toy.batch(1), toy.batch(2, tokens=16), toy.batch(3, tokens=4)]
    if case.scale:
        toy.core.set_scale(
            np.random.default_rng(5).uniform(0.5, 2.0, toy.layout.parameters).astype(np.float32)
        )
    for index, values in guides.items():
        set_guide(toy, index, values, ALL)
    before = bits(toy.core.adapter)
    whole = toy.core.measure(batches, case.directions, EPSILON, case.active, case.exit_segment)
    runs = toy.core.counters.segment_runs
    toy.core.reset_counters()
    toy.core.poison_arena(poisoned)
    streamed = drive(toy, batches, case, guides)
    assert answer(streamed) == answer(whole)
    assert bits(toy.core.adapter) == before
    assert toy.core.counters.segment_runs == runs
    assert toy.core.counters.embed_runs == len(batches)


@pytest.mark.parametrize("first_segment", [1, 2])
def test_batches_may_enter_late_on_kept_states(toy: Toy, first_segment: int) -> None:
    rng, rows = np.random.default_rng(4), toy.shape["batch_examples"]
    made = []
    for tokens, kept in ((8, True), (16, True), (8, first_segment == 2)):
        ids = rng.integers(0, toy.shape["vocabulary"], (rows, tokens))
        given = (ids, np.ones((rows, tokens), np.int64), rng.integers(0, 3, rows), np.ones(rows))
        entry = (toy.core.hidden(Batch(*given), first_segment), first_segment) if kept else ()
        made.append(Batch(*given, *entry))
    case = Case([Direction(1), Direction(2), Direction(3)], list(range(first_segment, 3)))
    whole = toy.core.measure(made, case.directions, EPSILON, case.active)
    toy.core.reset_counters()
    alone = toy.core.begin(made[:2], case.directions, EPSILON, case.active)
    assert alone == list(range(first_segment, 3))
    toy.core.abandon()
    assert answer(drive(toy, made, case, {})) == answer(whole)


def test_more_than_one_group_and_calls_in_between(toy: Toy) -> None:
    """What does not perturb may be asked between two segments, and changes nothing."""
    batches, directions = [toy.batch(1), toy.batch(2, tokens=16)], [Direction(1), Direction(2)]
    whole = toy.core.measure(batches, directions, EPSILON, ALL)
    other, left = toy.batch(9, tokens=4), toy.core.evaluate([toy.batch(9, tokens=4)], 1)
    for _ in range(2):
        for _segment in toy.core.begin(batches, directions, EPSILON, ALL):
            assert toy.core.evaluate([other], 1) == left
            toy.core.logits(other)
            toy.core.hidden(other, 2)
            toy.core.advance()
        assert toy.core.evaluate([other], 1) == left
        assert answer(toy.core.finish()) == answer(whole)


def test_methods_are_loaded_by_begin_and_again_where_they_were_freed(toy: Toy) -> None:
    core = toy.open()
    core.adapter[:] = toy.core.adapter
    expected = toy.core.measure([toy.batch(1)], [Direction(1)], EPSILON, ALL)
    segments = core.begin([toy.batch(1)], [Direction(1)], EPSILON, ALL)
    assert core.loaded_methods == ["embed", "segment_0", "segment_1", "head"]
    for _segment in segments:
        core.unload_except([])
        core.advance()
        assert len(core.loaded_methods) <= 3
    assert answer(core.finish()) == answer(expected)
    assert core.counters.method_loads == 6


def test_time_is_counted_by_segment(toy: Toy) -> None:
    core, case = toy.core, CASES["isotropic"]
    core.begin([toy.batch(1)], case.directions, EPSILON, ALL)
    core.reset_counters()
    core.advance()
    first = core.counters
    assert first.segment_runs == [6, 0, 0]
    for times in (first.segment_ns, first.segment_perturb_ns, first.segment_check_ns):
        assert times[0] > 0
        assert times[1:] == [0, 0]
    core.advance()
    core.advance()
    last = core.counters
    assert all(value > 0 for value in (*last.segment_perturb_ns, *last.segment_check_ns))
    assert last.perturb_ns == sum(last.segment_perturb_ns)
    spent_ns = sum(last.segment_ns) + sum(last.segment_perturb_ns) + sum(last.segment_check_ns)
    assert spent_ns < last.total_ns
    core.finish()


def test_arrays_are_kept_as_long_as_they_are_read_and_no_longer(toy: Toy) -> None:
    def watched(values: NDArray[Any]) -> tuple[NDArray[Any], weakref.ref[Any]]:
        class Kept(np.ndarray):  # plain arrays take no weak references
            pass

        kept = values.view(Kept)
        return kept, weakref.ref(kept)

    ids, ids_alive = watched(np.ones((4, 8), np.int64))
    guide, guide_alive = watched(np.ones(toy.core.adapter.size, np.float32)[toy.layout.segment_slice(0)])
    batch = Batch(ids, np.ones((4, 8), np.int64), np.zeros(4, np.int64), np.ones(4))
    toy.core.clear_guides(1)
    toy.core.set_guide(0, 0, guide)
    toy.core.begin([batch], [Direction(1, 1.0, [(0, 1.0)])], EPSILON, ALL)
    del ids, guide, batch
    gc.collect()
    assert ids_alive() is not None
    assert guide_alive() is not None
    toy.core.advance()
    toy.core.clear_guide(0, 0)
    gc.collect()
    assert guide_alive() is None
    toy.core.abandon()
    gc.collect()
    assert ids_alive() is None
