"""Tasks with a window: what they answer, which segments run and are in memory, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runtime.device import Device
from device_runtime.engine import Engine
from device_runtime.local_update import LocalTask, run_directions
from device_runtime.prefix_states import PrefixStates
from device_runtime.state_store import InFile
from protos import federation_pb2 as pb

from .toy_bundle import HEAD, open_toy_bundle, toy_examples
from .world import World, directions

BATCHES, COUNT = 2, 4  # of a task of `directions()`: eight examples, four a batch


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def window(
    active: list[int], exit_segment: int, count: int = COUNT, batch_seed: int = 5
) -> pb.DirectionsTask:
    task = directions(count, batch_seed)
    del task.active_segments[:]
    task.active_segments.extend(active)
    task.exit_segment = exit_segment
    return task


def turn(world: World, **kind: Any) -> list[int]:
    """Does a task of the version that the device has, if any; answers the segment runs."""
    number = len(world.cloud.reports) + 1
    if number > 1:
        world.engine._core.reset_counters()
    world.turn(world.task(number, world.unchanged() if number > 1 else None, **kind))
    assert world.status == "OK", world.cloud.reports[-1].detail
    return world.engine._core.counters.segment_runs


def test_a_window_that_is_the_whole_chain_gives_the_same_bits(tmp_path: Path) -> None:
    first, second = World(tmp_path / "a"), World(tmp_path / "b")
    turn(first, directions=directions())
    turn(second, directions=window([0, 1, HEAD], HEAD))
    assert first.cloud.reports[0].scalars == second.cloud.reports[0].scalars


def test_only_the_window_runs_and_is_in_memory(world: World) -> None:
    runs = turn(world, directions=window([0, HEAD], 1))
    assert runs == [BATCHES * 2 * COUNT, 0, BATCHES * 2 * COUNT]
    assert world.engine.loaded_methods == ["embed", "segment_0", "head"]
    runs = turn(world, directions=window([1, HEAD], 2))
    groups = runs[0]  # those that the batch's examples are in
    assert runs == [groups, BATCHES * 2 * COUNT, BATCHES * 2 * COUNT]
    assert 1 <= groups <= 8
    assert world.engine.loaded_methods == ["embed", "segment_1", "head"]
    runs = turn(world, directions=window([1, HEAD], 2))
    assert runs == [0, BATCHES * 2 * COUNT, BATCHES * 2 * COUNT]
    runs = turn(world, directions=directions())
    assert runs == [BATCHES * 2 * COUNT] * 3
    assert world.engine.loaded_methods == ["embed", "segment_0", "segment_1", "head"]
    turn(world, directions=window([0, HEAD], 1))
    assert world.engine.loaded_methods == ["embed", "segment_0", "head"]


def test_the_head_alone_behind_an_exit_costs_heads(world: World) -> None:
    turn(world, directions=window([HEAD], 1))
    assert world.engine.loaded_methods == ["embed", "head"]
    assert turn(world, directions=window([HEAD], 1)) == [0, 0, BATCHES * 2 * COUNT]
    # and is measured on what leaves the exit
    private = world.engine.private_examples(lambda names: world.examples)
    local = LocalTask(window([HEAD], 1))
    whole = run_directions(local, world.engine, private.train, lambda: 0.0)
    assert np.allclose(whole.scalars, world.cloud.reports[-1].scalars, rtol=0, atol=1e-4)


def test_directions_of_their_own_segments_enter_no_later_than_the_exit(tmp_path: Path) -> None:
    engine = Engine(open_toy_bundle(tmp_path / "bundle"))
    train = engine.private_examples(lambda names: toy_examples()).train
    together = window([0, HEAD], 1)
    together.steps[0].directions.add(seed=70, count=4, isotropic_scale=1.0, active_segments=[HEAD])
    engine._core.reset_counters()
    scalars = run_directions(LocalTask(together), engine, train, lambda: 0.0).scalars
    assert engine._core.counters.segment_runs[:2] == [BATCHES * (2 * COUNT + 1), 0]
    alone = window([HEAD], 1)
    alone.steps[0].directions[0].seed = 70
    assert scalars[COUNT:] == run_directions(LocalTask(alone), engine, train, lambda: 0.0).scalars


def test_an_evaluation_ends_where_it_is_told_and_holds_no_more_than_the_window(world: World) -> None:
    turn(world, evaluate=pb.EvaluateTask(exit_segment=1))
    assert world.engine.loaded_methods == ["embed", "head"]  # segment by segment
    first = world.cloud.reports[-1].evaluation
    private = world.engine.private_examples(lambda names: world.examples)
    batches = private.held_out.batches(range(len(private.held_out)))
    loss_sum, count, correct = world.engine.evaluate(batches, 1)
    assert (first.count, first.correct) == (count, correct)
    assert first.loss == pytest.approx(loss_sum / count, abs=1e-6)
    turn(world, evaluate=pb.EvaluateTask())
    assert world.cloud.reports[-1].evaluation.loss != pytest.approx(first.loss, abs=1e-4)
    assert world.engine.loaded_methods == ["embed", "segment_0", "segment_1", "head"]
    turn(world, directions=window([1, HEAD], 2))
    turn(world, evaluate=pb.EvaluateTask(exit_segment=2))
    assert world.engine.loaded_methods == ["embed", "segment_1", "head"]
    whole, from_states = (report.evaluation for report in (world.cloud.reports[-3], world.cloud.reports[-1]))
    assert whole.loss == pytest.approx(from_states.loss, abs=1e-6)
    assert world.holdings.engine is world.engine


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: setattr(t, "exit_segment", 3), "use 1 to 2, or 0 for the whole chain"),
        (lambda t: setattr(t, "exit_segment", 1), "segment 1 is active and does not run"),
        (lambda t: t.active_segments.append(9), "the head is number 2"),
        (lambda t: setattr(t, "global_weight", 0.5), "a bundle exported with bottlenecks"),
        (lambda t: setattr(t, "global_weight", -0.5), "not negative"),
        (lambda t: setattr(t, "global_weight", float("nan")), "finite"),
    ],
)
def test_windows_that_make_no_sense_are_refused_before_anything_runs(
    world: World, change: Callable[[pb.DirectionsTask], Any], words: str
) -> None:
    wanted = directions()
    change(wanted)
    world.turn(world.task(directions=wanted))
    assert world.status == "UNSUPPORTED_TASK"
    assert words in world.cloud.reports[0].detail
    assert world.engine.loaded_methods == []
    world.turn(world.task(2, world.unchanged(), evaluate=pb.EvaluateTask(exit_segment=3)))
    assert world.status == "UNSUPPORTED_TASK"


def test_states_are_gone_with_the_session_and_come_again_the_same(tmp_path: Path) -> None:
    world = World(tmp_path, make_engine=lambda bundle: Engine(bundle, 1, 0, tmp_path / "store"))
    first = turn(world, directions=window([1, HEAD], 2))[0]
    assert first > 0
    assert turn(world, directions=window([1, HEAD], 2))[0] == 0
    world.session.forget_examples()
    assert turn(world, directions=window([1, HEAD], 2))[0] == first
    world.start()
    world.turn(world.task(9, world.unchanged(), directions=window([1, HEAD], 2)))
    assert len(world.cloud.reports) == 4
    assert len({tuple(report.scalars) for report in world.cloud.reports}) == 1


def test_a_devices_states_go_to_its_store_beyond_their_memory(tmp_path: Path) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    with Device(server="127.0.0.1:1", store=tmp_path / "store", examples=[], max_state_bytes=0) as device:
        engine = device._make_engine(bundle)
        private = engine.private_examples(lambda names: toy_examples())
        states = private.train_from(1, engine)
        assert isinstance(states, PrefixStates)
        assert isinstance(states._store, InFile)
        private.close()
