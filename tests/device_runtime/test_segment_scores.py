"""Linear CKA and the scores of segments: their identities, and what a device answers to be asked for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.budget import Budget
from device_runtime.engine import Engine
from device_runtime.errors import LossNotFinite, ServerUnreachable
from device_runtime.segment_scores import cka, gram, segment_scores
from protos import federation_pb2 as pb

from .toy_bundle import HEAD, open_toy_bundle, toy_examples
from .world import World, directions

SCORES = pb.ScoreSegmentsTask(batch_seed=4, batch_examples=24)


def of(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return cka(gram(first), gram(second))


def examples(seed: int, width: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(20, width))


def test_it_is_one_up_to_rotation_scale_and_shift() -> None:
    z = examples(1, 6)
    q, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))
    assert of(z, z) == pytest.approx(1.0, abs=1e-12)
    assert of(z, -3e-5 * z @ q + 7.0) == pytest.approx(1.0, abs=1e-9)
    stretched = z @ np.diag([1.0, 1, 1, 1, 1, 9])
    assert 0.1 < of(z, stretched) < 0.9


def test_it_is_the_formula_whatever_the_widths() -> None:
    x, y = examples(3, 6), examples(4, 30)
    xc, yc = x - x.mean(0), y - y.mean(0)
    numerator = np.linalg.norm(yc.T @ xc) ** 2
    wanted = numerator / (np.linalg.norm(xc.T @ xc) * np.linalg.norm(yc.T @ yc))
    assert of(x, y) == pytest.approx(wanted, rel=1e-12)
    assert of(y, x) == pytest.approx(wanted, rel=1e-12)
    order = np.random.default_rng(5).permutation(20)
    assert of(x[order], y[order]) == pytest.approx(wanted, rel=1e-12)
    assert 0.0 < wanted < 1.0


def test_examples_that_are_all_the_same_say_nothing_and_extremes_do_not_overflow() -> None:
    z = examples(6, 4)
    assert of(np.ones((20, 4)), z) == 0.0
    assert of(1e300 * z, 1e-300 * z) == pytest.approx(1.0, abs=1e-12)
    z[3, 1] = np.nan
    with pytest.raises(LossNotFinite):
        gram(z)


def test_scores_of_a_program_are_those_of_its_hidden_states(tmp_path: Path) -> None:
    engine = Engine(open_toy_bundle(tmp_path / "bundle"))
    train = engine.private_examples(lambda names: toy_examples()).train
    batches = train.batches(range(10))  # the last one has two rows without weight
    states = [[], [], []]  # type: list[list[NDArray[np.float64]]]
    for batch in batches:
        for segment in range(HEAD + 1):
            hidden = engine.hidden(batch, segment).astype(np.float64)
            mask = batch.attention_mask[:, :, None]
            means = (hidden * mask).sum(1) / np.maximum(mask.sum(1), 1)
            states[segment].append(means[batch.weights > 0])
    first, *left = (np.concatenate(part) for part in states)
    assert first.shape == (10, engine.hidden_size)
    found = segment_scores(engine, batches)
    assert found == pytest.approx([of(first, part) for part in left], rel=1e-5)
    assert all(0.0 < score < 1.0 for score in found)
    assert segment_scores(engine, train.batches(range(9, -1, -1))) == pytest.approx(found, rel=1e-5)
    assert engine.loaded_methods == ["embed"]


def test_a_report_carries_a_score_a_segment(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.turn(world.task(score_segments=SCORES))
    (report,) = world.cloud.reports
    assert report.status == pb.REPORT_STATUS_OK
    assert len(report.segment_scores) == HEAD
    assert all(0.0 < score < 1.0 for score in report.segment_scores)
    assert report.examples == 24
    assert not report.scalars
    assert not report.HasField("evaluation")
    assert report.timing.segment_runs == HEAD * 6
    assert world.store.state.disclosed == {"1": [HEAD, 0]}


def test_scores_count_as_scalars_of_their_round_over_restarts(tmp_path: Path) -> None:
    world = World(tmp_path, budget=Budget(HEAD + 4))
    world.cloud.acks = [ServerUnreachable("the network is gone"), pb.Ack()]
    with pytest.raises(ServerUnreachable):
        world.turn(world.task(score_segments=SCORES))
    world.start()
    world.turn()  # the report that was written down
    first, second = world.cloud.reports
    assert first == second
    assert world.status == "OK"
    world.turn(world.task(1, world.unchanged(), directions=directions(5)))
    assert world.status == "REFUSED_DISCLOSURE_BUDGET"
    world.turn(world.task(1, world.unchanged(), directions=directions(4)))
    assert world.status == "OK"
    world.turn(world.task(1, world.unchanged(), score_segments=SCORES))
    assert world.status == "REFUSED_DISCLOSURE_BUDGET"
    assert "ask in another round" in world.cloud.reports[-1].detail


def test_scores_about_too_few_examples_are_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.turn(world.task(score_segments=pb.ScoreSegmentsTask(batch_seed=4, batch_examples=7)))
    assert world.status == "REFUSED_DISCLOSURE_BUDGET"
    few = World(tmp_path / "few", toy_examples(6))
    few.turn(few.task(score_segments=SCORES))
    assert few.status == "NOT_ENOUGH_EXAMPLES"
    assert not few.cloud.reports[-1].segment_scores
    assert few.store.state.disclosed == {}
