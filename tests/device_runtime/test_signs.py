"""Both signs in one forward: the scalars of one after the other, where a device found it to be faster."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runtime import memory
from device_runtime.bundle import Bundle
from device_runtime.core import Batch as CoreBatch
from device_runtime.core import Direction
from device_runtime.engine import Engine
from device_runtime.examples import Example
from device_runtime.signs import NAME, longest_gain, run_signs

from .engines import random_engine
from .toy_bundle import open_toy_bundle

pytestmark = pytest.mark.ci
EPSILON = 1e-2
HEAD = 2
LONG = 32


def export(source: Path, folder: Path, **options: Any) -> Bundle:
    from export.writer import Options, write_bundle

    given = Options(
        model=str(source), class_names=("no", "yes"), max_tokens=LONG, batch_examples=4,
        both_signs=True, **options,
    )  # fmt: skip
    return write_bundle(given, folder)


@pytest.fixture(scope="module")
def bundle(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(
        tiny_source, tmp_path_factory.mktemp("signs") / "bundle", adapter="bottleneck", bottleneck=5
    )


def batches_of(engine: Engine) -> list[CoreBatch]:
    """A short batch and a long one."""
    texts = (
        "a fine film",
        "dull",
        "no",
        "yes",
        "the whale in the deep blue sea was never seen again",
        "yes it is",
    )
    examples = engine.example_set([Example(t, ("no", "yes")[len(t) % 2]) for t in texts])
    return [CoreBatch(*batch) for batch in examples.batches(range(len(texts)))]


def measure(engine: Engine, most_tokens: int, *given: Any) -> tuple[Any, list[int], list[int]]:
    core = engine._core
    engine.pair_up_to(most_tokens)
    core.reset_counters()
    before = engine.adapter.copy()
    found = core.measure(*given)
    assert (engine.adapter.view(np.uint32) == before.view(np.uint32)).all()
    return found, list(core.counters.segment_runs), list(core.counters.pair_runs)


def test_both_forms_measure_the_same(bundle: Bundle) -> None:
    engine = random_engine(bundle)
    assert engine.can_pair
    directions = [Direction(7), Direction(8, 0.5), Direction(9, active_segments=[0, HEAD])]
    given = (batches_of(engine), directions, EPSILON, [0, 1, HEAD])
    apart, runs, pairs = measure(engine, 0, *given)
    assert (runs, pairs) == ([12, 12, 12], [0, 0])
    together, runs, pairs = measure(engine, LONG, *given)
    assert (runs, pairs) == ([0, 0, 12], [6, 6])
    np.testing.assert_allclose(together.loss_plus, apart.loss_plus, rtol=1e-6)
    np.testing.assert_allclose(together.loss_minus, apart.loss_minus, rtol=1e-6)
    assert (together.loss_plus != together.loss_minus).all()
    assert engine.loaded_methods == ["embed", "segment_0", "pair_0", "segment_1", "pair_1", "head"]


def test_only_short_batches_are_paired(bundle: Bundle) -> None:
    engine = random_engine(bundle)
    batches = batches_of(engine)
    given = (batches, [Direction(7)], EPSILON, [0, 1, HEAD])
    apart = measure(engine, 0, *given)[0]
    some, runs, pairs = measure(engine, 8, *given)
    assert (runs, pairs) == ([2, 2, 4], [1, 1])
    np.testing.assert_allclose(some.rho, apart.rho, rtol=1e-3)


def test_the_unperturbed_prefix_runs_once_and_a_window_pairs_too(bundle: Bundle) -> None:
    engine = random_engine(bundle)
    batches = batches_of(engine)[:1]
    late = (batches, [Direction(7), Direction(8)], EPSILON, [1])
    assert measure(engine, LONG, *late)[1:] == ([1, 0, 4], [0, 2])
    window = (batches, [Direction(7)], EPSILON, [0], 1, 0.5)
    apart = measure(engine, 0, *window)[0]
    together, runs, pairs = measure(engine, LONG, *window)
    assert (runs, pairs) == ([0, 0, 4], [1, 0])  # each sign: the head, and the head behind the branch
    np.testing.assert_allclose(together.loss_plus, apart.loss_plus, rtol=1e-6)
    np.testing.assert_allclose(together.loss_minus, apart.loss_minus, rtol=1e-6)


def test_what_shares_more_than_the_beginning_runs_as_planned(bundle: Bundle) -> None:
    engine = random_engine(bundle)
    batches = batches_of(engine)[:1]
    block = [Direction(7, boundary=1, prefix_seed=5), Direction(8, boundary=1, prefix_seed=5)]
    head = [Direction(7, active_segments=[HEAD]), Direction(8, active_segments=[HEAD])]
    mixed = [Direction(7), Direction(8, active_segments=[1])]
    for directions in (block, head, mixed):
        given = (batches, directions, EPSILON, [0, 1, HEAD])
        apart = measure(engine, 0, *given)
        again = measure(engine, LONG, *given)
        assert apart[1:] == again[1:]
        assert again[2] == [0, 0]
        assert list(apart[0].rho) == list(again[0].rho)


def test_an_arena_full_of_garbage_changes_nothing(bundle: Bundle) -> None:
    engine = random_engine(bundle)
    given = (batches_of(engine), [Direction(7)], EPSILON, [0, 1, HEAD])
    clean = measure(engine, LONG, *given)[0]
    engine._core.poison_arena(True)
    assert list(measure(engine, LONG, *given)[0].rho) == list(clean.rho)


@pytest.mark.parametrize("adapter", ["lora", "lora_fa"])
def test_other_kinds_pair_as_well(one_layer: Path, tmp_path: Path, adapter: str) -> None:
    engine = random_engine(export(one_layer, tmp_path / "bundle", adapter=adapter, rank=4))
    given = (batches_of(engine), [Direction(7)], EPSILON, [0, 1])
    apart = measure(engine, 0, *given)[0]
    together, _, pairs = measure(engine, LONG, *given)
    assert pairs == [2]
    np.testing.assert_allclose(together.loss_plus, apart.loss_plus, rtol=1e-6)
    np.testing.assert_allclose(together.loss_minus, apart.loss_minus, rtol=1e-6)


class Clock:
    """Time that passes as the engine runs: 1 s a segment, and so much a pair."""

    def __init__(self, engine: Engine, pair_s: float) -> None:
        self._engine, self._pair_s = engine, pair_s

    def __call__(self) -> float:
        counters = self._engine._core.counters
        return counters.segment_runs[HEAD - 1] + counters.pair_runs[HEAD - 1] * self._pair_s


def paired(engine: Engine, given: Any) -> list[int]:
    engine._core.reset_counters()
    engine._core.measure(*given)
    return list(engine._core.counters.pair_runs)


def test_the_device_keeps_what_it_measured(bundle: Bundle, tmp_path: Path) -> None:
    engine = random_engine(bundle)
    assert longest_gain(engine, Clock(engine, 1.0)) == LONG
    assert engine.loaded_methods == ["embed", "head"]
    assert longest_gain(engine, Clock(engine, 1.95)) == 0
    run_signs(engine, tmp_path, 1, Clock(engine, 1.0))
    engine.pair_up_to(0)
    asked = count()
    run_signs(engine, tmp_path, 1, lambda: float(next(asked)))
    assert next(asked) == 0  # nothing was timed again
    given = (batches_of(engine)[:1], [Direction(7)], EPSILON, [0, 1, HEAD])
    assert paired(engine, given) == [1, 1]
    (tmp_path / NAME).write_bytes(b"damaged")
    run_signs(engine, tmp_path, 1, Clock(engine, 3.0))  # is measured anew
    assert paired(engine, given) == [0, 0]
    run_signs(engine, tmp_path, 2, Clock(engine, 1.0))  # as with another number of threads
    assert paired(engine, given) == [1, 1]


def test_memory_must_allow_it(bundle: Bundle) -> None:
    needed = sum(memory.needed_bytes(bundle, Engine(bundle)._core.planned_bytes).values())
    more = memory.pair_bytes(bundle)
    assert more > sum(m.constant_bytes for m in bundle.manifest.chain.methods if m.name == "pair_0") > 0
    assert not Engine(bundle, max_memory_bytes=needed + more - 1).can_pair
    enough = Engine(bundle, max_memory_bytes=needed + more + 10)
    enough.pair_up_to(8)
    enough.pair_up_to(8)  # takes nothing twice
    assert enough.can_pair
    assert (enough._max_state_bytes, enough.streaming_bytes) == (5, 5)


def test_a_bundle_without_pairs_is_left_alone(tmp_path: Path) -> None:
    engine = Engine(open_toy_bundle(tmp_path / "bundle"))
    run_signs(engine, tmp_path, 1)
    assert not engine.can_pair
    assert not (tmp_path / NAME).exists()
