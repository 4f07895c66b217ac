"""One task, from permission to finding: what the device is asked, whether it will answer, and the answer.

A finding becomes a Report and an entry in the account of what was disclosed, both in one write, by
session.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from protos import federation_pb2 as pb

from .budget import (
    Budget,
    Disclosure,
    charge,
    check_directions,
    check_evaluation,
    check_examples,
    disclosed_in,
)
from .errors import TaskRefused, UnsupportedTask
from .groups import Between
from .local_update import LocalTask, check_task, evaluate, run_directions
from .private_examples import PrivateExamples
from .store import State, Store

if TYPE_CHECKING:
    from .engine import Engine

MOST_DETAIL_CHARACTERS = 512
NOTHING = Disclosure(0, 0)


@dataclass(frozen=True)
class Finding:
    """What comes out of a task; a status other than OK comes with nothing but its detail."""

    status: pb.ReportStatus.ValueType = pb.REPORT_STATUS_OK
    detail: str = ""
    scalars: list[float] = field(default_factory=list)
    examples: int = 0
    evaluation: pb.Evaluation | None = None
    disclosure: Disclosure = NOTHING
    segment_runs: int = 0

    @staticmethod
    def refused(refusal: TaskRefused) -> Finding:
        """The finding of a task that was not done."""
        status = pb.ReportStatus.Value(f"REPORT_STATUS_{refusal.status}")
        return Finding(status, refusal.message[:MOST_DETAIL_CHARACTERS])


def permit(
    task: pb.Task, engine: Engine, private: PrivateExamples, budget: Budget, state: State
) -> Disclosure:
    """Decides, before anything is fetched or computed for it, whether the device answers a task.

    Raises TaskRefused: BudgetExceeded, NotEnoughExamples or UnsupportedTask. Report it; nothing was
    disclosed.
    """
    kind = task.WhichOneof("kind")
    budget = budget.resolve(engine.bundle.layout.parameters)
    if kind == "directions":
        check_task(task.directions)
        account = disclosed_in(task.round, state.disclosed)
        return check_directions(task.directions, budget, account, engine.head_segment, len(private.train))
    if kind == "evaluate":
        check_examples(len(private.held_out), budget, "held-out")
        check_evaluation(task.round, state.adapter_sha256, state.evaluated)
        return NOTHING
    raise UnsupportedTask(f"tasks of kind {kind or 'unknown'} are not known here: update the app")


def carry_out(
    task: pb.Task,
    guide_index: Mapping[bytes, int],
    engine: Engine,
    private: PrivateExamples,
    store: Store,
    gauss: Callable[[], float],
    disclosure: Disclosure,
    go_on: Callable[[], bool] = lambda: True,
) -> Finding:
    """Does a permitted task with the adapter, scale and guides that are in the engine.

    The scalars of finished directions are written down as they come: a process that starts again goes on
    behind them, and neither measures nor noises a scalar twice. Between directions `go_on` is asked; False
    ends the work with Stopped. Raises TaskRefused, Stopped or StoreFull.
    """
    runs_before = engine.segment_runs
    if task.WhichOneof("kind") == "evaluate":
        with engine.lock:
            evaluation = evaluate(engine, private.held_out)
        return Finding(evaluation=evaluation, segment_runs=engine.segment_runs - runs_before)
    done = store.progress.of(task.task_id)
    between = Between(lambda scalars: store.progress.add(task.task_id, scalars), go_on)
    local = LocalTask(task.directions, guide_index)
    with engine.lock:
        train = private.train_from(task.directions.active_segments[0], engine)
        result = run_directions(local, engine, train, gauss, done, between)
    return Finding(
        scalars=result.scalars,
        examples=result.examples,
        disclosure=disclosure,
        segment_runs=engine.segment_runs - runs_before,
    )


def report_of(
    task: pb.Task, finding: Finding, private: PrivateExamples | None, state: State, report_id: str
) -> pb.Report:
    """The message for the cloud, without its timing."""
    report = pb.Report(
        task_id=task.task_id,
        report_id=report_id,
        status=finding.status,
        detail=finding.detail,
        adapter_sha256=bytes.fromhex(state.adapter_sha256),
        scalars=finding.scalars,
        examples=finding.examples,
        skipped_examples=private.skipped if private else 0,
        truncated_examples=private.truncated if private else 0,
    )
    if finding.evaluation is not None:
        report.evaluation.CopyFrom(finding.evaluation)
    return report


def account_changes(task: pb.Task, finding: Finding, state: State) -> dict[str, object]:
    """What the state remembers of a finding: what it discloses in its round."""
    changes: dict[str, object] = {}
    if finding.scalars:
        changes["disclosed"] = charge(state.disclosed, task.round, finding.disclosure)
    if finding.evaluation is not None:
        newest = {key: value for key, value in state.evaluated.items() if int(key) + 64 > task.round}
        changes["evaluated"] = newest | {str(task.round): state.adapter_sha256}
    return changes
