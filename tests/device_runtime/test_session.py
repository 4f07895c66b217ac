"""The session's phases in order, what it says to the cloud, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from device_runtime.budget import Budget
from device_runtime.engine import Engine
from device_runtime.examples import Example
from device_runtime.local_update import Measurement
from device_runtime.session import Outcome
from device_runtime.versions import adapter_sha256
from protos import federation_pb2 as pb

from .toy_bundle import toy_adapter, toy_examples
from .world import World, directions, finished, retry

TASK = ["check_in", "task", "fetch", "version", "version 1 snapshot", "compute", "computed"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_every_phase_of_a_whole_session_in_order(world: World) -> None:
    assert world.turn(retry(1000, 3000)) == Outcome(wait_s=2.0)
    assert world.told() == ["enroll", "check_in", "wait"]
    assert world.turn(world.task()) == Outcome()
    assert world.told() == [*TASK, "report", "report OK"]
    assert world.turn(world.task(2, world.unchanged(), evaluate=pb.EvaluateTask())) == Outcome()
    evaluation = ["check_in", "task", "fetch", "version", "version 1 unchanged", "compute", "computed"]
    assert world.told() == [*evaluation, "report", "report OK"]
    last = toy_adapter(world.bundle.layout, seed=10)
    assert world.turn(finished(world.snapshot(last, 2))) == Outcome(finished=True)
    assert world.told() == ["check_in", "version", "version 2 snapshot", "finished"]
    assert np.array_equal(world.engine.adapter, last)
    assert world.cloud.enrolled == 1


def test_what_a_check_in_says_before_and_after_there_is_a_bundle(tmp_path: Path) -> None:
    world = World(tmp_path, budget=Budget())
    world.turn(world.task())
    world.turn(retry())
    first, second = world.cloud.check_ins
    assert (first.bundle_sha256, first.adapter_sha256, first.adapter_version) == (b"", b"", 0)
    assert first.budget.max_scalars_per_round == 64
    assert second.bundle_sha256 == world.bundle_sha256
    assert (second.adapter_sha256, second.adapter_version) == (adapter_sha256(world.adapter), 1)
    assert second.budget.max_scalars_per_round == max(1, world.bundle.layout.parameters // 100)
    assert first.train_examples == second.train_examples
    assert first.train_examples % 8 == 0
    assert 240 <= first.train_examples <= 290  # nine tenths of 300


def test_a_report_carries_the_scalars_and_what_is_needed_to_judge_them(world: World) -> None:
    world.examples += [Example("w1 " * 40_000, "left"), Example("w2", "nowhere")]
    world.turn(world.task())
    (report,) = world.cloud.reports
    assert (report.task_id, report.report_id, report.status) == ("task-1", "report-1", pb.REPORT_STATUS_OK)
    assert len(report.scalars) == 4
    assert report.adapter_sha256 == adapter_sha256(world.adapter)
    assert (report.examples, report.skipped_examples, report.truncated_examples) == (8, 1, 1)
    assert [span.name for span in report.timing.spans] == ["check_in", "fetch", "fetch", "compute"]
    assert all(span.end_ms > span.start_ms for span in report.timing.spans)
    assert report.timing.downlink_bytes == 100 * (2 + 4 + 1)  # enroll, check-in, bundle's files, snapshot
    assert report.timing.segment_runs > 0


def test_an_evaluation_reports_three_numbers_and_no_scalars(world: World) -> None:
    world.turn(world.task(evaluate=pb.EvaluateTask()))
    (report,) = world.cloud.reports
    assert not report.scalars
    assert report.examples == 0
    assert report.evaluation.count == 300 - len(world.engine.private_examples(lambda n: world.examples).train)
    assert 0 < report.evaluation.loss < 10


def test_bytes_and_spans_are_counted_from_one_report_to_the_next(world: World) -> None:
    world.turn(world.task())
    world.turn(world.task(2, world.unchanged()))
    second = world.cloud.reports[1].timing
    assert second.downlink_bytes == 100 * 2  # the first report, the second check-in
    names = [span.name for span in second.spans]
    assert names == ["report", "check_in", "fetch", "fetch", "compute"]
    reports = [event for event in world.events if event.name == "report"]
    told = [span["name"] for event in reports for span in event.fields["spans"]]  # type: ignore[attr-defined]
    again = ["check_in", "fetch", "fetch", "compute", "report"]
    assert told == again * 2  # an event tells every span once


def refused(
    world: World, change: Callable[[pb.DirectionsTask], Any], update: pb.VersionUpdate | None = None
) -> str:
    wanted = directions()
    change(wanted)
    assert world.turn(world.task(update=update, directions=wanted)) == Outcome()
    report = world.cloud.reports[-1]
    assert not report.scalars
    assert report.detail
    return world.status


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda t: setattr(t.steps[0].directions[0], "count", 65), "REFUSED_DISCLOSURE_BUDGET", "limit 64"),
        (lambda t: setattr(t.steps[0], "batch_examples", 4), "REFUSED_DISCLOSURE_BUDGET", "larger batches"),
        (lambda t: t.ClearField("steps"), "UNSUPPORTED_TASK", "at least one step"),
        (lambda t: setattr(t, "epsilon", -1.0), "UNSUPPORTED_TASK", "epsilon"),
    ],
)
def test_what_is_refused_before_anything_is_measured(
    world: World, change: Callable[[pb.DirectionsTask], Any], status: str, words: str
) -> None:
    assert refused(world, change) == status
    assert words in world.cloud.reports[0].detail
    assert "compute" not in world.told()
    assert sum(world.engine.work.runs) == 0
    world.turn(world.task(2, world.unchanged()))
    assert world.status == "OK"


def test_epsilon_below_the_grid_and_beyond_it(world: World) -> None:
    assert refused(world, lambda t: setattr(t, "epsilon", 1e-7)) == "DIRECTION_BELOW_GRID"
    assert "use epsilon" in world.cloud.reports[-1].detail
    assert refused(world, lambda t: setattr(t, "epsilon", 1e9)) == "DIRECTION_OUT_OF_RANGE"


class NoNumber(Engine):
    """An engine whose loss is NaN."""

    def measure(self, *arguments: Any) -> Measurement:
        return SimpleNamespace(rho=np.array([1.0, np.nan, 1.0, 1.0]))  # type: ignore[return-value]


def test_a_loss_that_is_not_finite_is_a_status(tmp_path: Path) -> None:
    world = World(tmp_path, make_engine=NoNumber)
    assert refused(world, lambda t: None) == "LOSS_NOT_FINITE"
    assert np.array_equal(world.engine.adapter, world.adapter)


@pytest.mark.parametrize("examples", [[], toy_examples(6)])
def test_too_few_examples_are_a_status_and_the_session_goes_on(
    tmp_path: Path, examples: list[Example]
) -> None:
    world = World(tmp_path, examples)
    assert refused(world, lambda t: None) == "NOT_ENOUGH_EXAMPLES"
    assert world.cloud.check_ins[0].train_examples == 0
    world.turn(world.task(2, evaluate=pb.EvaluateTask()))
    assert world.status == "NOT_ENOUGH_EXAMPLES"


def test_a_kind_of_task_that_is_not_known_is_refused(world: World) -> None:
    unknown = world.task()
    unknown.task.ClearField("directions")
    world.turn(unknown)
    assert world.status == "UNSUPPORTED_TASK"


def test_the_budget_of_a_round_holds_over_tasks_and_restarts(world: World) -> None:
    for number in range(20):
        reply = world.task(7, world.unchanged() if number else None)
        reply.task.task_id = f"part {number}"
        world.turn(reply)
        world.start()
    statuses = [report.status for report in world.cloud.reports]
    assert statuses == [pb.REPORT_STATUS_OK] * 16 + [pb.REPORT_STATUS_REFUSED_DISCLOSURE_BUDGET] * 4
    world.turn(world.task(8, world.unchanged()))
    assert world.status == "OK"


def test_one_evaluation_a_round_may_be_repeated_but_not_of_another_adapter(world: World) -> None:
    world.turn(world.task(3, evaluate=pb.EvaluateTask()))
    world.turn(world.task(3, world.unchanged(), evaluate=pb.EvaluateTask()))
    first, second = world.cloud.reports
    assert first.evaluation == second.evaluation
    other = world.snapshot(toy_adapter(world.bundle.layout, seed=4), 2)
    world.turn(world.task(3, other, evaluate=pb.EvaluateTask()))
    assert world.status == "REFUSED_DISCLOSURE_BUDGET"


def test_another_bundle_sees_the_examples_with_its_own_classes(world: World) -> None:
    world.turn(world.task(evaluate=pb.EvaluateTask()))
    other = world.folder / "other"
    shutil.copytree(world.bundle.folder, other)
    fields = json.loads((other / "manifest.json").read_text())
    fields["task"]["class_names"].reverse()
    (other / "manifest.json").write_text(json.dumps(fields))
    reply = world.task(2, evaluate=pb.EvaluateTask())
    reply.task.bundle_sha256 = world.cloud.serve_folder(other)
    world.turn(reply)
    first, second = (report.evaluation for report in world.cloud.reports)
    assert first.count == second.count
    fresh = world.engine.private_examples(lambda names: world.examples).held_out
    loss_sum, count, correct = world.engine.evaluate(fresh.batches(range(len(fresh))))
    assert (second.count, second.correct) == (count, correct)
    assert second.loss == pytest.approx(loss_sum / count)
    assert second.loss != pytest.approx(first.loss)
