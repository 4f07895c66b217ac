"""The local update against the NumPy twin, on the toy program through the real core."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.directions import Direction, expand
from device_runtime.engine import Engine
from device_runtime.errors import DirectionBelowGrid, LossNotFinite, TaskRefused, UnsupportedTask
from device_runtime.groups import Between
from device_runtime.local_update import Batch, LocalTask, draw_batch, evaluate, run_directions, wire_form
from device_runtime.private_examples import PrivateExamples
from device_runtime.zo import spsa
from device_runtime.zo.direction import Direction as TwinDirection
from protos import federation_pb2 as pb

from .toy_bundle import HEAD, open_toy_bundle, toy_adapter, toy_examples


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(open_toy_bundle(tmp_path / "bundle"))


@pytest.fixture
def private(engine: Engine) -> PrivateExamples:
    return engine.private_examples(lambda names: toy_examples())


def steps_task(**changes: object) -> pb.DirectionsTask:
    directions = [pb.Direction(seed=11, count=3, isotropic_scale=1.0)]
    first = pb.Step(
        batch_seed=7, batch_examples=10, directions=directions, local_learning_rate=0.05, update_seed=3
    )
    second = pb.Step(
        batch_seed=8,
        batch_examples=12,
        directions=[pb.Direction(seed=2**64 - 1, count=2, isotropic_scale=0.5)],
    )
    task = pb.DirectionsTask(epsilon=0.01, active_segments=[0, 1, HEAD], steps=[first, second])
    for name, value in changes.items():
        setattr(task, name, value)
    return task


def bits(adapter: NDArray[np.float32]) -> NDArray[np.int32]:
    return adapter.view(np.int32).copy()


def test_scalars_are_the_twins_and_all_is_restored(engine: Engine, private: PrivateExamples) -> None:
    task = steps_task()
    before = bits(engine.adapter)
    result = run_directions(LocalTask(task), engine, private.train, lambda: 0.0)
    assert np.array_equal(bits(engine.adapter), before)

    expected = []
    theta = toy_adapter(engine.bundle.layout)
    other = Engine(engine.bundle)
    used: set[int] = set()
    for step, seeds in zip(task.steps, ([11, 12, 13], [2**64 - 1, 0]), strict=True):
        chosen = draw_batch(step.batch_seed, step.batch_examples, len(private.train))
        used.update(chosen)
        batches = private.train.batches(chosen)

        def loss(adapter: NDArray[np.float32], batches: list[Batch] = batches) -> float:
            other.adapter[:] = adapter
            total, count, _ = other.evaluate(batches)
            return total / count

        directions = [TwinDirection(seed, step.directions[0].isotropic_scale) for seed in seeds]
        expected += spsa.local_update(
            loss, theta, engine.bundle.layout, directions, task.epsilon, step.local_learning_rate,
            step.update_seed, wire_form=lambda rho: float(np.float32(rho)),
        )  # fmt: skip
    assert result.scalars == expected
    assert result.examples == len(used)


def test_without_a_local_step_each_starts_from_the_base(engine: Engine, private: PrivateExamples) -> None:
    task = steps_task()
    task.steps[0].local_learning_rate = 0.0
    both = run_directions(LocalTask(task), engine, private.train, lambda: 0.0).scalars
    moved = run_directions(LocalTask(steps_task()), engine, private.train, lambda: 0.0).scalars
    del task.steps[0]
    alone = run_directions(LocalTask(task), engine, private.train, lambda: 0.0).scalars
    assert both[3:] == alone
    assert moved[:3] == both[:3]
    assert moved[3:] != both[3:]


def slow(kept: list[list[float]]) -> Between:
    """A clock by which every measurement lasts longer than a group should: one direction a group."""
    times = itertools.count()
    return Between(kept.append, clock=lambda: float(next(times)))


def test_a_second_start_goes_on_with_what_was_kept(engine: Engine, private: PrivateExamples) -> None:
    task = steps_task()
    task.scalar_form.noise_std = 0.3
    noise = iter([0.1, -0.2, 0.3, 0.4, -0.5])
    kept: list[list[float]] = []
    whole = run_directions(LocalTask(task), engine, private.train, lambda: next(noise), between=slow(kept))
    assert kept == [[scalar] for scalar in whole.scalars[:4]]  # the last one goes into the report
    for finished in range(6):
        rest = iter([0.1, -0.2, 0.3, 0.4, -0.5][finished:])
        runs = sum(engine.work.runs)
        done = whole.scalars[:finished]
        assert run_directions(LocalTask(task), engine, private.train, rest.__next__, done) == whole
        # Three batches, three segments, two signs a direction; finished ones are moved along, not measured.
        assert sum(engine.work.runs) - runs == 18 * (5 - finished)


def test_the_adapter_is_restored_when_a_later_step_fails(engine: Engine, private: PrivateExamples) -> None:
    before = bits(engine.adapter)

    def failing() -> float:
        raise KeyboardInterrupt

    task = steps_task()
    run_directions(LocalTask(task), engine, private.train, failing)  # no noise asked: never called
    task.scalar_form.noise_std = 1.0
    with pytest.raises(KeyboardInterrupt):
        run_directions(LocalTask(task), engine, private.train, failing, done=[0.5, 0.5, 0.5])
    assert np.array_equal(bits(engine.adapter), before)


def test_wire_form_clips_then_noises_then_rounds() -> None:
    form = pb.ScalarForm(clip=1.0, noise_std=0.5)
    assert wire_form(7.0, form, lambda: 0.25) == 1.125
    assert wire_form(-7.0, form, lambda: 0.0) == -1.0
    assert wire_form(0.1, pb.ScalarForm(), lambda: 9.0) == float(np.float32(0.1)) != 0.1
    with pytest.raises(LossNotFinite):
        wire_form(1e39, pb.ScalarForm(), lambda: 0.0)


def test_batches_are_distinct_deterministic_and_cover_everything() -> None:
    first = draw_batch(5, 16, 100)
    assert first == draw_batch(5, 16, 100)
    assert len(set(first)) == 16
    assert first != draw_batch(6, 16, 100)
    assert draw_batch(5, 8, 100) == first[:8]
    assert sorted(draw_batch(5, 64, 7)) == list(range(7))
    counts = np.bincount([i for seed in range(2000) for i in draw_batch(seed, 3, 9)], minlength=9)
    # Each of 9 examples is in a batch of 3 with probability 1/3: 667 of 2,000, standard deviation 21.
    assert np.all(np.abs(counts - 2000 / 3) < 5 * 21.1)


def test_batches_have_the_programs_shape_and_rows_without_weight(private: PrivateExamples) -> None:
    batches = private.train.batches([0, 1, 2, 3, 4, 5])
    assert [batch.input_ids.shape[0] for batch in batches] == [4, 4]
    assert [list(batch.weights) for batch in batches] == [[1.0] * 4, [1.0, 1.0, 0.0, 0.0]]
    assert all(batch.input_ids.shape[1] % 4 == 0 for batch in batches)


def test_examples_of_an_app_are_skipped_cut_and_counted(engine: Engine) -> None:
    from device_runtime.examples import Example

    odd = [Example("w1 " * 33_334, "left"), Example("w2 w3", "sideways"), Example("w4 w5", "Left")]
    given = [*toy_examples(40), *odd, *toy_examples(40)]
    private = engine.private_examples(lambda names: given)
    assert (private.skipped, private.truncated) == (2, 1)
    assert len(private.train) + len(private.held_out) == 41  # repeated ones count once


def test_evaluation_is_the_mean_over_the_held_out_tenth(engine: Engine) -> None:
    private = engine.private_examples(lambda names: toy_examples(300))
    assert 15 <= len(private.held_out) <= 50
    found = evaluate(engine, private.held_out)
    losses = []
    for index in range(len(private.held_out)):
        total, count, _ = engine.evaluate(private.held_out.batches([index]))
        losses.append(total / count)
    assert found.loss == pytest.approx(np.mean(losses), abs=1e-6)
    assert (found.count, 0 <= found.correct <= found.count) == (len(private.held_out), True)


def test_a_loss_that_is_not_finite_has_a_status_and_changes_nothing(
    engine: Engine, private: PrivateExamples
) -> None:
    last = engine.bundle.layout.segment_slice(HEAD)
    engine.adapter[last] = np.float32(np.nan)
    before = bits(engine.adapter)
    with pytest.raises(TaskRefused) as refusal:
        run_directions(LocalTask(steps_task()), engine, private.train, lambda: 0.0)
    assert refusal.value.status in ("LOSS_NOT_FINITE", "BAD_ARTIFACT")
    assert np.array_equal(bits(engine.adapter), before)


def test_a_direction_below_the_grid_names_the_epsilon_that_would_do(
    engine: Engine, private: PrivateExamples
) -> None:
    task = steps_task(epsilon=3e-7)
    del task.steps[1]
    with pytest.raises(DirectionBelowGrid, match="use epsilon") as refusal:
        run_directions(LocalTask(task), engine, private.train, lambda: 0.0)
    task.epsilon = float(str(refusal.value).split("use epsilon ")[1].split(",")[0])
    run_directions(LocalTask(task), engine, private.train, lambda: 0.0)


def test_directions_expand_to_consecutive_seeds_that_wrap() -> None:
    direction = pb.Direction(seed=2**64 - 1, count=2, isotropic_scale=2.0, active_segments=[1])
    direction.guides.add(guide_sha256=b"g", coefficient=0.5)
    expected = [Direction(2**64 - 1, 2.0, [(4, 0.5)], [1]), Direction(0, 2.0, [(4, 0.5)], [1])]
    assert expand([direction], [0, 1], {b"g": 4}) == expected
    with pytest.raises(UnsupportedTask, match="guide"):
        expand([direction], [0, 1], {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: setattr(t, "epsilon", 0.0), "epsilon"),
        (lambda t: setattr(t, "epsilon", float("nan")), "epsilon"),
        (lambda t: setattr(t.scalar_form, "clip", float("inf")), "clip"),
        (lambda t: setattr(t.steps[0].directions[0], "count", 0), "count"),
        (lambda t: setattr(t.steps[0].directions[0], "count", 2**32 - 1), "send fewer"),
        (lambda t: t.ClearField("active_segments"), "active_segments"),
        (lambda t: t.active_segments.insert(0, 2), "active_segments"),
        (lambda t: t.steps[0].directions[0].active_segments.append(9), "outside"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(
    engine: Engine, private: PrivateExamples, change: object, words: str
) -> None:
    task = steps_task()
    change(task)  # type: ignore[operator]
    with pytest.raises(UnsupportedTask, match=words):
        run_directions(LocalTask(task), engine, private.train, lambda: 0.0)
