"""Hidden states that are kept: the same scalars, fewer runs, and never states of another adapter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.bundle import Bundle
from device_runtime.core import Batch, CoreError, Direction
from device_runtime.engine import Engine
from device_runtime.local_update import LocalTask, run_directions
from device_runtime.prefix_states import PrefixStates
from device_runtime.private_examples import PrivateExamples
from device_runtime.state_store import InMemory
from protos import federation_pb2 as pb

from .toy_bundle import HEAD, open_toy_bundle, toy_examples

Float32 = NDArray[np.float32]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_toy_bundle(tmp_path / "bundle")


@pytest.fixture(params=["in memory", "in a file"])
def engine(bundle: Bundle, tmp_path: Path, request: pytest.FixtureRequest) -> Engine:
    (tmp_path / "states").mkdir()
    return Engine(bundle) if request.param == "in memory" else Engine(bundle, 1, 0, tmp_path / "states")


@pytest.fixture
def private(engine: Engine) -> PrivateExamples:
    return examples_of(engine)


def examples_of(engine: Engine) -> PrivateExamples:
    return engine.private_examples(lambda names: toy_examples())


def task(first_segment: int, batch_seed: int = 7) -> pb.DirectionsTask:
    step = pb.Step(
        batch_seed=batch_seed,
        batch_examples=11,
        directions=[pb.Direction(seed=5, count=4, isotropic_scale=1.0)],
    )
    return pb.DirectionsTask(epsilon=0.01, active_segments=range(first_segment, HEAD + 1), steps=[step])


def scalars(engine: Engine, private: PrivateExamples, first_segment: int, batch_seed: int = 7) -> list[float]:
    train = private.train_from(first_segment, engine)
    return run_directions(LocalTask(task(first_segment, batch_seed)), engine, train, lambda: 0.0).scalars


def runs_of(engine: Engine, states: PrefixStates, chosen: range) -> list[int]:
    """Segment runs of bringing these examples to the boundary."""
    engine._core.reset_counters()
    states.batches(chosen)
    return engine._core.counters.segment_runs


def entering(private: PrivateExamples, engine: Engine, first_segment: int) -> list[Float32]:
    states = private.train_from(first_segment, engine)
    return [batch.hidden for batch in states.batches(range(len(states))) if batch.hidden is not None]


@pytest.mark.parametrize("first_segment", [1, HEAD])
def test_scalars_agree_with_a_run_from_the_start(
    engine: Engine, private: PrivateExamples, first_segment: int
) -> None:
    for batch_seed in (7, 8):
        local = LocalTask(task(first_segment, batch_seed))
        whole = run_directions(local, engine, private.train, lambda: 0.0)
        states = private.train_from(first_segment, engine)
        kept = run_directions(local, engine, states, lambda: 0.0)
        assert isinstance(states, PrefixStates)
        assert kept.examples == whole.examples
        assert np.allclose(kept.scalars, whole.scalars, rtol=0, atol=2e-3)
        assert np.abs(whole.scalars).max() > 1e-2


def test_bits_do_not_depend_on_what_was_drawn_before(engine: Engine, private: PrivateExamples) -> None:
    fresh = scalars(engine, private, HEAD)
    other = examples_of(engine)
    for batch_seed in range(20, 24):
        scalars(engine, other, HEAD, batch_seed)
    assert scalars(engine, other, HEAD) == fresh


def test_bits_do_not_depend_on_the_way_of_the_boundary(engine: Engine, private: PrivateExamples) -> None:
    entering(private, engine, 1)
    moved = entering(private, engine, HEAD)
    fresh = entering(examples_of(engine), engine, HEAD)
    assert len(moved) == len(fresh) == -(-len(private.train) // 4)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(moved, fresh, strict=True))


def test_a_second_round_runs_the_head_alone(engine: Engine, private: PrivateExamples) -> None:
    scalars(engine, private, HEAD)
    before = sum(engine.work.runs)
    scalars(engine, private, HEAD)
    batches = len(private.train.batches(range(11)))
    assert sum(engine.work.runs) - before == batches * 2 * 4


def test_states_move_on_from_where_they_are(engine: Engine, private: PrivateExamples) -> None:
    states = private.train_from(1, engine)
    assert isinstance(states, PrefixStates)
    assert runs_of(engine, states, range(8)) == [2, 0, 0]
    assert runs_of(engine, states, range(8)) == [0, 0, 0]
    assert private.train_from(HEAD, engine) is states
    assert runs_of(engine, states, range(8)) == [0, 2, 0]
    assert runs_of(engine, states, range(12)) == [1, 1, 0]  # a group that was not there yet
    assert private.train_from(1, engine) is states
    assert runs_of(engine, states, range(4)) == [1, 0, 0]  # there is no way back


def test_states_last_while_the_adapter_before_them_does(engine: Engine, private: PrivateExamples) -> None:
    states = private.train_from(1, engine)
    assert isinstance(states, PrefixStates)
    runs_of(engine, states, range(8))
    layout = engine.bundle.layout
    engine.adapter[layout.segment_slice(HEAD)] = 0.0
    engine.adapter[layout.segment_slice(1)] += np.float32(2.0**-8)
    private.train_from(HEAD, engine)  # what has moved since is not before them
    assert runs_of(engine, states, range(8)) == [0, 2, 0]
    engine.adapter[layout.segment_slice(1)] -= np.float32(2.0**-8)
    private.train_from(HEAD, engine)
    assert runs_of(engine, states, range(8)) == [2, 2, 0]
    before = entering(private, engine, 1)
    engine.adapter[0] += np.float32(2.0**-8)
    after = entering(private, engine, 1)
    assert any(a.tobytes() != b.tobytes() for a, b in zip(before, after, strict=True))


def test_one_frozen_segment_is_in_memory_at_a_time(bundle: Bundle) -> None:
    class Watched(Engine):
        seen: list[list[str]]

        def hidden(self, *arguments: Any) -> Float32:
            hidden = super().hidden(*arguments)
            self.seen.append(self.loaded_methods)
            return hidden

    engine = Watched(bundle)
    engine.seen = []
    private = examples_of(engine)
    private.train_from(HEAD, engine).batches(range(8))
    assert engine.seen == [["embed", "segment_0"]] * 2 + [["embed", "segment_1"]] * 2
    assert engine.loaded_methods == ["embed"]


def test_a_file_has_no_name_and_goes_with_the_window(bundle: Bundle, tmp_path: Path) -> None:
    def open_files() -> list[str]:
        descriptors = [str(path) for path in Path("/proc/self/fd").iterdir()]
        found = [os.readlink(path) for path in descriptors if os.path.lexists(path)]
        return [name for name in found if name.startswith(str(tmp_path))]

    engine = Engine(bundle, 1, 0, tmp_path)
    private, inside = examples_of(engine), sorted(tmp_path.iterdir())
    scalars(engine, private, HEAD)
    assert isinstance(private.held_out_from(HEAD, engine), PrefixStates)
    assert sorted(tmp_path.iterdir()) == inside
    assert [name.endswith(" (deleted)") for name in open_files()] == [True, True]
    assert private.boundary == HEAD
    assert private.train_from(0, engine) is private.train
    assert private.boundary == 0
    assert not open_files()


def test_without_room_or_a_prefix_the_chain_runs_whole(bundle: Bundle, tmp_path: Path) -> None:
    for engine in (Engine(bundle, 1, 0), Engine(bundle, 1, 0, tmp_path / "absent")):
        private = examples_of(engine)
        assert private.train_from(0, engine) is private.train
        assert private.train_from(HEAD, engine) is private.train
        assert private.held_out_from(HEAD, engine) is private.held_out
    sizes = sum(private.train.lengths) + sum(private.held_out.lengths)
    enough = 4 * sizes * engine.hidden_size
    assert isinstance(examples_of(Engine(bundle, 1, enough)).train_from(HEAD, engine), PrefixStates)
    assert not isinstance(examples_of(Engine(bundle, 1, enough - 1)).train_from(HEAD, engine), PrefixStates)


def test_half_a_state_is_none(engine: Engine, private: PrivateExamples) -> None:
    class Interrupted(InMemory):
        left = 6

        def write(self, tokens: slice, states: Float32) -> None:
            self.left -= 1
            if self.left == 0:  # in the second group, with its first two states at the next segment
                raise KeyboardInterrupt
            super().write(tokens, states)

    store = Interrupted(sum(private.train.lengths), engine.hidden_size)
    states = PrefixStates(private.train, engine, store).move_to(HEAD)
    with pytest.raises(KeyboardInterrupt):
        states.batches(range(8))
    whole = PrefixStates(private.train, engine, InMemory(sum(private.train.lengths), engine.hidden_size))
    for again, wanted in zip(states.batches(range(8)), whole.move_to(HEAD).batches(range(8)), strict=True):
        assert again.hidden is not None
        assert wanted.hidden is not None
        assert again.hidden.tobytes() == wanted.hidden.tobytes()


def test_the_core_refuses_a_perturbation_before_the_state(engine: Engine, private: PrivateExamples) -> None:
    (batch,) = private.train_from(HEAD, engine).batches([0, 1])
    with pytest.raises(CoreError, match="before a batch's hidden state"):
        engine._core.measure([Batch(*batch)], [Direction(1)], 0.01, [1, HEAD])
    with pytest.raises(CoreError, match="with the segment that it enters"):
        engine._core.measure([Batch(*batch._replace(first_segment=0))], [Direction(1)], 0.01, [HEAD])
