"""Hidden states that are kept: the same scalars, fewer runs, and never states of another adapter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_runtime import prefix_states
from device_runtime.core import Batch, CoreError, Direction
from device_runtime.engine import Engine
from device_runtime.local_update import LocalTask, run_directions
from device_runtime.prefix_states import PrefixStates
from device_runtime.private_examples import PrivateExamples
from protos import federation_pb2 as pb

from .toy_bundle import HEAD, open_toy_bundle, toy_examples


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(open_toy_bundle(tmp_path / "bundle"))


@pytest.fixture
def private(engine: Engine) -> PrivateExamples:
    return engine.private_examples(lambda names: toy_examples())


def task(first_segment: int, batch_seed: int = 7) -> pb.DirectionsTask:
    step = pb.Step(
        batch_seed=batch_seed,
        batch_examples=11,
        directions=[pb.Direction(seed=5, count=4, isotropic_scale=1.0)],
    )
    return pb.DirectionsTask(epsilon=0.01, active_segments=range(first_segment, HEAD + 1), steps=[step])


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
        assert np.allclose(kept.scalars, whole.scalars, rtol=0, atol=1e-4)
        assert np.abs(whole.scalars).max() > 1e-2


def test_bits_do_not_depend_on_what_was_drawn_before(engine: Engine, private: PrivateExamples) -> None:
    fresh = run_directions(LocalTask(task(HEAD)), engine, private.train_from(HEAD, engine), lambda: 0.0)
    other = engine.private_examples(lambda names: toy_examples())
    for batch_seed in range(20, 24):
        run_directions(LocalTask(task(HEAD, batch_seed)), engine, other.train_from(HEAD, engine), lambda: 0.0)
    later = run_directions(LocalTask(task(HEAD)), engine, other.train_from(HEAD, engine), lambda: 0.0)
    assert later.scalars == fresh.scalars


def test_a_second_round_runs_the_head_alone(engine: Engine, private: PrivateExamples) -> None:
    run_directions(LocalTask(task(HEAD)), engine, private.train_from(HEAD, engine), lambda: 0.0)
    before = engine.segment_runs
    run_directions(LocalTask(task(HEAD)), engine, private.train_from(HEAD, engine), lambda: 0.0)
    batches = len(private.train.batches(range(11)))
    assert engine.segment_runs - before == batches * 2 * 4


def test_states_last_while_the_adapter_before_them_does(engine: Engine, private: PrivateExamples) -> None:
    states = private.train_from(HEAD, engine)
    engine.adapter[engine.bundle.layout.segment_slice(HEAD)] = 0.0
    assert private.train_from(HEAD, engine) is states
    assert private.train_from(1, engine) is not states
    again = private.train_from(HEAD, engine)
    engine.adapter[0] += 2.0**-8
    assert private.train_from(HEAD, engine) is not again


def test_without_room_or_a_prefix_the_chain_runs_whole(engine: Engine, private: PrivateExamples) -> None:
    assert private.train_from(0, engine) is private.train
    private.train.tokens = prefix_states.MOST_STATE_BYTES
    assert private.train_from(HEAD, engine) is private.train


def test_the_core_refuses_a_perturbation_before_the_state(engine: Engine, private: PrivateExamples) -> None:
    (batch,) = private.train_from(HEAD, engine).batches([0, 1])
    with pytest.raises(CoreError, match="before a batch's hidden state"):
        engine._core.measure([Batch(*batch)], [Direction(1)], 0.01, [1, HEAD])
    with pytest.raises(CoreError, match="with the segment that it enters"):
        engine._core.measure([Batch(*batch._replace(first_segment=0))], [Direction(1)], 0.01, [HEAD])
