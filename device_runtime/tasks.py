"""One task, from permission to finding: what the device is asked, whether it will answer, and the answer.

A finding becomes a Report and an entry in the account of what was disclosed, both in one write, by
session.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from protos import federation_pb2 as pb

from .account import disclosed_before
from .budget import (
    NOTHING,
    Budget,
    Disclosure,
    check_directions,
    check_evaluation,
    check_examples,
    check_scalars,
    check_scores,
)
from .concentration import Supplies, weigh
from .errors import TaskRefused, UnsupportedTask
from .groups import Between
from .local_update import LocalTask, draw_batch, evaluate, run_directions
from .private_examples import PrivateExamples
from .segment_scores import segment_scores
from .segment_work import SegmentWork
from .store import State, Store
from .task_checks import check_exact, check_exit, check_task, check_window

if TYPE_CHECKING:
    from .engine import Engine
    from .streamed import Feed

MOST_DETAIL_CHARACTERS = 512
NO_WORK = SegmentWork()
Kept = Callable[[list[float], Disclosure], None]


@dataclass(frozen=True)
class Ready:
    """What a permitted task needs beside the engine. With a `feed` its disclosure is the feed's."""

    disclosure: Disclosure = NOTHING
    guide_index: Mapping[bytes, int] = field(default_factory=dict)
    feed: Feed | None = None

    @property
    def discloses(self) -> Disclosure:
        """What the task discloses. With a feed, only after a measurement."""
        return self.disclosure if self.feed is None else self.feed.disclosure


@dataclass(frozen=True)
class Finding:
    """What comes out of a task; a status other than OK comes with nothing but its detail."""

    status: pb.ReportStatus.ValueType = pb.REPORT_STATUS_OK
    detail: str = ""
    scalars: list[float] = field(default_factory=list)
    received: int = 0  # of these, from the first on, by the cloud ahead of the report
    examples: int = 0
    evaluation: pb.Evaluation | None = None
    segment_scores: list[float] = field(default_factory=list)
    disclosure: Disclosure = NOTHING
    work: SegmentWork = NO_WORK

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
        check_window(task.directions, engine.head_segment, engine.has_branches)
        check_exact(task.directions, engine.head_segment, engine.has_head_gradient)
        account = disclosed_before(task, state)
        return check_directions(task.directions, budget, account, engine.head_segment, len(private.train))
    if kind == "score_segments":
        account, segments = disclosed_before(task, state), engine.head_segment
        return check_scores(task.score_segments, budget, account, segments, len(private.train))
    if kind == "evaluate":
        check_exit(task.evaluate.exit_segment, engine.head_segment)
        check_examples(len(private.held_out), budget, "held-out")
        check_evaluation(task.round, state.adapter_sha256, state.evaluated)
        return NOTHING
    raise UnsupportedTask(f"tasks of kind {kind or 'unknown'} are not known here: update the app")


def permit_directions(
    task: pb.Task, supplies: Supplies, engine: Engine, budget: Budget, state: State
) -> Disclosure:
    """Decides again once scale and guides are here, which say where a direction's energy lies.

    Returns what the task discloses. Raises TaskRefused as `permit` does.
    """
    spans = {segment: engine.bundle.layout.segment_slice(segment) for segment in engine.segment_counts}
    wanted = weigh(task.directions, supplies, spans, engine.head_segment)
    return allow_scalars(task, wanted, engine, budget, state)


def allow_scalars(
    task: pb.Task, wanted: Disclosure, engine: Engine, budget: Budget, state: State
) -> Disclosure:
    """What a task's directions were found to disclose, if the budget allows it. Raises TaskRefused."""
    check_scalars(wanted, budget.resolve(engine.bundle.layout.parameters), disclosed_before(task, state))
    return wanted


def carry_out(
    task: pb.Task,
    ready: Ready,
    engine: Engine,
    private: PrivateExamples,
    store: Store,
    gauss: Callable[[], float],
    go_on: Callable[[], bool] = lambda: True,
    kept: Kept = lambda scalars, disclosure: None,
) -> Finding:
    """Does a permitted task with the adapter, scale and guides that are in the engine.

    The scalars of finished directions are written down as they come: a process that starts again goes on
    behind them, and neither measures nor noises a scalar twice. Between directions `kept` hears of them, with
    what the task discloses, and `go_on` is asked; False ends the work with Stopped. Raises TaskRefused,
    Stopped or StoreFull.
    """
    with engine.lock:
        match task.WhichOneof("kind"):
            case "evaluate":
                finding = _evaluate(task.evaluate, engine, private)
            case "score_segments":
                finding = _score_segments(task.score_segments, engine, private)
            case _:
                finding = _run_directions(task, ready, engine, private, store, gauss, go_on, kept)
    return replace(finding, disclosure=ready.discloses)


def _run_directions(
    task: pb.Task,
    ready: Ready,
    engine: Engine,
    private: PrivateExamples,
    store: Store,
    gauss: Callable[[], float],
    go_on: Callable[[], bool],
    kept: Kept,
) -> Finding:
    def keep(scalars: list[float]) -> None:
        store.progress.add(task.task_id, scalars)
        kept(scalars, ready.discloses)

    done, between = store.progress.of(task.task_id), Between(keep, go_on)
    exit_segment = task.directions.exit_segment or engine.head_segment
    # With the head alone active, all that runs is frozen.
    train = private.train_from(min(task.directions.active_segments[0], exit_segment), engine)
    engine.keep_window(train.first_segment, exit_segment, task.directions.global_weight > 0)
    local = LocalTask(task.directions, ready.guide_index, ready.feed)
    result = run_directions(local, engine, train, gauss, done, between)
    return Finding(scalars=result.scalars, examples=result.examples)


def _evaluate(task: pb.EvaluateTask, engine: Engine, private: PrivateExamples) -> Finding:
    """Evaluates from where the training examples' states are kept; before the first task with a window,
    segment by segment, so that an evaluation holds no more of the model than that window.
    """
    exit_segment = task.exit_segment or engine.head_segment
    first_segment = private.boundary or (exit_segment if exit_segment < engine.head_segment else 0)
    held_out = private.held_out_from(min(first_segment, exit_segment), engine)
    engine.keep_window(held_out.first_segment, exit_segment)
    return Finding(evaluation=evaluate(engine, held_out, exit_segment))


def _score_segments(task: pb.ScoreSegmentsTask, engine: Engine, private: PrivateExamples) -> Finding:
    chosen = draw_batch(task.batch_seed, task.batch_examples, len(private.train))
    scores = segment_scores(engine, private.train.batches(chosen))
    return Finding(segment_scores=scores, examples=len(chosen))


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
        segment_scores=finding.segment_scores,
        examples=finding.examples,
        skipped_examples=private.skipped if private else 0,
        truncated_examples=private.truncated if private else 0,
    )
    if finding.evaluation is not None:
        report.evaluation.CopyFrom(finding.evaluation)
    return report
