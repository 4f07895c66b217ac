"""A session: the protocol's phases, one after the other, as a device goes through them.

    enroll -> [report, if one is pending] -> check in -+-> task -> fetch -> version -> guides -> compute ->
    report
                                                       +-> retry window: one instant in it
                                                       +-> finished: the last version

Each walk through this drawing is a turn; it begins while the conditions hold that this device requires (see
limits.py). Whatever goes wrong with a task is reported with a status, and the
session goes on. Whatever the process had not written down when it ended is done again: before a report
leaves, it lies on disk, together with what it discloses.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from protos import federation_pb2 as pb

from .budget import Budget
from .errors import (
    BadArtifact,
    BadVersion,
    BundleError,
    NotEnrolled,
    ServerRefused,
    TaskLost,
    TaskRefused,
    UnsupportedTask,
)
from .holdings import Cloud as Supplies
from .holdings import Holdings
from .journal import Event, Journal, Traffic
from .limits import Watch
from .outbox import Cloud as Receives
from .outbox import Outbox
from .preparation import Preparation
from .private_examples import PrivateExamples, Source, count_distinct
from .store import Store
from .streamed import can_stream
from .stretches import Stretches
from .tasks import Finding, Ready, permit
from .uplink import Cloud as Hears

if TYPE_CHECKING:
    from .engine import Engine

PROTOCOL_VERSION = 1
CONDITIONS_PAUSE_S = 10.0  # between two looks while no task is held


class Cloud(Supplies, Hears, Receives, Protocol):
    """What is used here of Transport."""

    @property
    def traffic(self) -> Traffic: ...

    def enroll(self) -> pb.EnrollReply: ...

    def check_in(self, request: pb.CheckInRequest) -> pb.CheckInReply: ...


@dataclass(frozen=True)
class Outcome:
    """How one turn ended: whether the job is over, and if not, after how long the next turn should start."""

    finished: bool = False
    wait_s: float = 0.0


class Session:
    """One device's conversation with one cloud, turn by turn. See the module's drawing.

    `uniform(low, high)` picks instants, `gauss()` is the device's own N(0, 1) noise. `on_event` gets every
    event in order: phase (enroll, check_in, fetch, version, guides, compute, report), task, version,
    computed, report, lost, wait, paused and resumed (by the conditions that `watch` requires), finished.
    `pause(seconds)` waits; it raises Stopped when the wait was ended by stop().
    """

    def __init__(
        self,
        cloud: Cloud,
        store: Store,
        holdings: Holdings,
        source: Source,
        uniform: Callable[[float, float], float],
        gauss: Callable[[], float],
        budget: Budget | None = None,
        on_event: Callable[[Event], None] = lambda event: None,
        time_s: Callable[[], float] = time.time,
        watch: Watch | None = None,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._cloud, self._store, self._holdings, self._source = cloud, store, holdings, source
        self._budget, self._uniform = budget or Budget(), uniform
        self._journal = Journal(cloud.traffic, on_event, time_s)
        self._stretches = Stretches(cloud, watch or Watch(), self._journal, store, gauss, pause, clock)
        self._outbox = Outbox(cloud, store, holdings, self._journal, uniform, new_id)
        self._preparation = Preparation(holdings, store, self._budget, self._journal, self._stretches.stopped)
        self._enrolled = False
        self._private: PrivateExamples | None = None
        self._private_of: Engine | None = None
        self._guessed_examples: int | None = None  # until a bundle says which labels count

    def turn(self) -> Outcome:
        """Hands in what is pending, or checks in and does the task it is given, if any.

        Raises ServerUnreachable (try again later), ServerRefused, StoreError, BundleError, ExamplesError or
        Stopped: see each. Another turn goes on where this one ended.
        """
        if not self._stretches.conditions_hold():
            return Outcome(wait_s=CONDITIONS_PAUSE_S)
        try:
            return self._turn()
        except NotEnrolled:
            # The cloud may have lost its memory since; a second refusal is a matter of keys or clocks.
            self._enrolled = False
            return self._turn()

    def forget_examples(self) -> None:
        """Asks the source anew at the next check-in, and lets go of all that was kept of the examples."""
        if self._private is not None:
            self._private.close()
        self._private = self._private_of = self._guessed_examples = None

    def _turn(self) -> Outcome:
        if not self._enrolled:
            self._journal.phase("enroll")
            self._cloud.enroll()
            self._enrolled = True
        if self._outbox.is_pending:
            return Outcome(wait_s=self._outbox.send())
        reply = self._check_in()
        answer = reply.WhichOneof("answer")
        if answer == "task":
            return self._work(reply.task)
        if answer == "finished":
            return self._finish(reply.finished)
        if answer == "retry":
            longest_ms = max(reply.retry.min_ms, reply.retry.max_ms)
            wait_s = self._uniform(reply.retry.min_ms / 1000, longest_ms / 1000)
            self._journal.tell("wait", wait_s=wait_s)
            return Outcome(wait_s=wait_s)
        raise ServerRefused("the service's answer to a check-in is not known here: update the app")

    def _check_in(self) -> pb.CheckInReply:
        start_ms = self._journal.phase("check_in")
        state = self._store.state
        bundle_sha256 = self._holdings.bundle_sha256()
        # A version is claimed only while its bytes are there and have its hash.
        holds = bool(bundle_sha256) and self._store.read_adapter() is not None
        reply = self._cloud.check_in(
            pb.CheckInRequest(
                protocol_version=PROTOCOL_VERSION,
                bundle_sha256=bytes.fromhex(bundle_sha256),
                adapter_version=state.adapter_version if holds else 0,
                adapter_sha256=bytes.fromhex(state.adapter_sha256) if holds else b"",
                budget=self._budget.message(self._holdings.parameters()),
                train_examples=self._train_examples() // 8 * 8,
                download_bytes_per_s=self._cloud.traffic.download_bytes_per_s,
                streams_versions=True,
            )
        )
        self._stretches.checked_in(self._journal.span("check_in", start_ms))
        return reply

    def _train_examples(self) -> int:
        if self._private is not None:
            return len(self._private.train)
        if self._guessed_examples is None:
            self._guessed_examples = count_distinct(self._source(None))
        return self._guessed_examples

    def _finish(self, finished: pb.Finished) -> Outcome:
        """Reaches the last version, where this device holds the bundle; where it never had work it needs
        none.
        """
        bundle_sha256 = self._holdings.bundle_sha256()
        if bundle_sha256 and finished.HasField("update"):
            self._holdings.load(bundle_sha256)
            try:
                self._reach(finished.update)
            except BadVersion as error:
                self._claim_none(error)
                return Outcome()
        state = self._store.state
        self._journal.tell("finished", version=state.adapter_version, adapter_sha256=state.adapter_sha256)
        return Outcome(finished=True)

    def _work(self, task: pb.Task) -> Outcome:
        kind = task.WhichOneof("kind") or ""
        self._stretches.begin_lease(task)
        self._journal.tell("task", task_id=task.task_id, round=task.round, kind=kind)
        try:
            finding = self._find(task)
        except TaskRefused as refusal:
            finding = Finding.refused(refusal)
        except BundleError as error:
            # The cloud hears of it, and so does whoever runs this device: no other task can succeed.
            self._outbox.keep(task, Finding.refused(BadArtifact(str(error))), self._private)
            self._outbox.send()
            raise
        except TaskLost as error:
            return Outcome(wait_s=self._outbox.drop(error))
        if finding is None:
            return Outcome()
        self._outbox.keep(task, finding, self._private)
        return Outcome(wait_s=self._outbox.send())

    def _find(self, task: pb.Task) -> Finding | None:
        """The finding of a task, or None when the device has to check in again for a snapshot first."""
        try:
            return self._done(task)
        except BadVersion as error:
            self._holdings.pieces.drop(task.update.streamed.sha256)
            self._claim_none(error)
            return None

    def _done(self, task: pb.Task) -> Finding:
        journal = self._journal
        start_ms = journal.phase("fetch")
        engine = self._holdings.load(task.bundle_sha256.hex())
        if self._private is None or self._private_of is not engine:
            self.forget_examples()  # another bundle has tokens, classes and hidden states of its own
            self._private, self._private_of = engine.private_examples(self._source), engine
        journal.span("fetch", start_ms)
        if task.update.WhichOneof("form") != "streamed":
            self._reach(task.update)
        elif not can_stream(task.directions):
            raise UnsupportedTask("a version streams only with guides that do: correct the task")
        ready = Ready(permit(task, engine, self._private, self._budget, self._store.state))
        with ExitStack() as opened:
            if task.WhichOneof("kind") == "directions":
                ready = self._preparation.prepare(task, engine, opened)
            finding = self._stretches.compute(task, ready, engine, self._private)
        runs, pairs = sum(finding.work.runs), sum(finding.work.pairs)
        journal.tell("computed", task_id=task.task_id, segment_runs=runs, pair_runs=pairs)
        return finding

    def _reach(self, update: pb.VersionUpdate) -> None:
        """Reaches a version. Raises BadVersion."""
        start_ms = self._journal.phase("version")
        self._holdings.reach(update)
        self._journal.span("fetch", start_ms)
        self._journal.version(update)

    def _claim_none(self, error: BadVersion) -> None:
        """Makes the next check-in ask for a snapshot. Raises the error where the last one did already."""
        if not self._store.state.adapter_sha256:
            raise error
        self._holdings.forget_adapter()
