"""Groups of directions: the same numbers, and no segment run more, than in one call."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime import groups
from device_runtime.directions import Direction
from device_runtime.engine import Engine
from device_runtime.errors import Stopped
from device_runtime.groups import GROUP_S, Between, measure_in_groups
from device_runtime.local_update import Batch, LocalTask, run_directions
from protos import federation_pb2 as pb

from .toy_bundle import HEAD, open_toy_bundle, toy_examples

ALL = [0, 1, HEAD]
EPSILON = 0.01


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(open_toy_bundle(tmp_path / "bundle"))


def plain(count: int, *segments: int, seed: int = 1) -> list[Direction]:
    return [Direction(seed + i, 1.0, [], list(segments) or ALL) for i in range(count)]


def two_blocks(prefixes: int, per_prefix: int) -> list[Direction]:
    return [
        Direction(50 + i, 1.0, [], ALL, boundary=2, prefix_seed=50 + i // per_prefix)
        for i in range(prefixes * per_prefix)
    ]


class Counting:
    """Measures on an engine, and remembers how many directions it was asked for."""

    def __init__(self, engine: Engine, direction_s: float = 1.0) -> None:
        self.engine, self.sizes, self.now_s, self.direction_s = engine, list[int](), 0.0, direction_s

    def __call__(self, batches: list[Batch], directions: list[Direction]) -> NDArray[np.float64]:
        self.sizes.append(len(directions))
        self.now_s += self.direction_s * len(directions)
        return self.engine.measure(batches, directions, EPSILON, ALL).rho

    def all_of(self, directions: list[Direction], batches: list[Batch]) -> NDArray[np.float64]:
        between = Between(clock=lambda: self.now_s)
        return np.concatenate(list(measure_in_groups(self.engine, batches, directions, self, between)))


def runs_of(engine: Engine, work: Callable[[], object]) -> list[int]:
    before = engine._core.counters.segment_runs
    work()
    return [after - b for after, b in zip(engine._core.counters.segment_runs, before, strict=True)]


@pytest.mark.parametrize(
    ("directions", "sizes"),
    [
        (plain(5), [1] * 5),
        (plain(5, HEAD), [2, 2, 1]),
        (plain(4, 1, HEAD), [1] * 4),
        (two_blocks(3, 2), [2, 2, 2]),
        ([*two_blocks(2, 3), *plain(2, 1)], [3, 3, 1, 1]),
        ([*plain(2, HEAD), *plain(1), *plain(2, 1, seed=9), *plain(1, HEAD, seed=20)], [2, 1, 1, 1, 1]),
        (plain(1), [1]),
    ],
    ids=["all", "head", "from 1", "two blocks", "two blocks and one", "mixed", "one"],
)
def test_groups_of_one_unit_cost_no_segment_run_and_change_no_bit(
    engine: Engine, directions: list[Direction], sizes: list[int]
) -> None:
    batches = engine.private_examples(lambda names: toy_examples()).train.batches(range(10))
    whole: list[NDArray[np.float64]] = []
    once = runs_of(engine, lambda: whole.append(engine.measure(batches, directions, EPSILON, ALL).rho))
    measured = Counting(engine)
    grouped: list[NDArray[np.float64]] = []
    assert runs_of(engine, lambda: grouped.append(measured.all_of(directions, batches))) == once
    assert measured.sizes == sizes
    assert np.array_equal(grouped[0], whole[0])


def test_groups_grow_to_the_time_that_one_should_take(engine: Engine) -> None:
    batches = engine.private_examples(lambda names: toy_examples()).train.batches(range(8))
    measured = Counting(engine, direction_s=GROUP_S / 10.5)
    measured.all_of(plain(48), batches)
    assert measured.sizes == [1, 10, 10, 10, 10, 7]
    measured = Counting(engine, direction_s=0.0)  # a clock too coarse to see anything
    measured.all_of(plain(25), batches)
    assert measured.sizes == [1, 16, 8]


def test_a_step_whose_states_would_not_fit_is_one_group(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = engine.private_examples(lambda names: toy_examples()).train.batches(range(8))
    monkeypatch.setattr(groups, "MOST_ENTRY_BYTES", 100)
    measured = Counting(engine)
    measured.all_of(plain(3, HEAD), batches)
    measured.all_of(plain(3), batches)  # these hold no states
    assert measured.sizes == [3, 1, 1, 1]


def test_work_that_is_suspended_kept_what_was_finished_and_restores_the_adapter(engine: Engine) -> None:
    private = engine.private_examples(lambda names: toy_examples())
    step = pb.Step(batch_seed=7, batch_examples=8, local_learning_rate=0.05, update_seed=3)
    step.directions.add(seed=11, count=3, isotropic_scale=1.0)
    task = pb.DirectionsTask(epsilon=EPSILON, active_segments=ALL, steps=[step, step])
    whole = run_directions(LocalTask(task), engine, private.train, lambda: 0.0)
    before = engine.adapter.copy()
    kept: list[float] = []
    asked = itertools.count(1)
    times = itertools.count()
    between = Between(kept.extend, lambda: next(asked) < 4, clock=lambda: float(next(times)))
    with pytest.raises(Stopped, match="between two directions"):
        run_directions(LocalTask(task), engine, private.train, lambda: 0.0, between=between)
    assert kept == whole.scalars[:4]
    assert np.array_equal(engine.adapter.view(np.int32), before.view(np.int32))
    assert run_directions(LocalTask(task), engine, private.train, lambda: 0.0, done=kept) == whole
