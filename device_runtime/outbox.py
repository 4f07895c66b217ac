"""A report on its way: written down before it leaves, sent until acknowledged, dropped when nobody waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from protos import federation_pb2 as pb

from .account import report_changes
from .errors import CooperLLMError, NotEnrolled, ScalarsMissing, ServerRefused, TaskLost, VersionRefused
from .holdings import Holdings
from .journal import Journal
from .private_examples import PrivateExamples
from .store import Store
from .tasks import Finding, report_of

LOST_PAUSE_S = 1.0


class Cloud(Protocol):
    """What is used here of Transport."""

    def send_report(self, report: pb.Report) -> pb.Ack: ...


class Outbox:
    """The one report that may be pending. `uniform(low, high)` picks pauses, `new_id()` names reports."""

    def __init__(
        self,
        cloud: Cloud,
        store: Store,
        holdings: Holdings,
        journal: Journal,
        uniform: Callable[[float, float], float],
        new_id: Callable[[], str],
    ) -> None:
        self._cloud, self._store, self._holdings, self._journal = cloud, store, holdings, journal
        self._uniform, self._new_id = uniform, new_id

    @property
    def is_pending(self) -> bool:
        """Whether a report waits to be acknowledged."""
        return bool(self._store.state.pending_report)

    def keep(self, task: pb.Task, finding: Finding, private: PrivateExamples | None) -> None:
        """Writes a report down, in one write with what it discloses. Only after that may it leave."""
        state = self._store.state
        report = report_of(task, finding, private, state, self._new_id())
        report.timing.CopyFrom(self._journal.timing(finding.work))
        pending = report.SerializeToString()
        self._store.update(
            pending_report=pending.hex(),
            pending_round=task.round,
            pending_first=finding.received,
            **report_changes(task, finding, state, self._journal.now_ms(), len(pending)),
        )
        self._store.progress.clear()

    def send(self) -> float:
        """Sends the pending report until it is acknowledged, or the cloud says that it came too late. Answers
        after how many seconds to go on.
        """
        state = self._store.state
        report = pb.Report.FromString(bytes.fromhex(state.pending_report))
        start_ms = self._journal.phase("report")
        try:
            ack = self._hand_in(report, state.pending_first)
        except VersionRefused as error:
            self._holdings.forget_adapter()
            return self.drop(error)
        except TaskLost as error:
            return self.drop(error)
        except NotEnrolled:
            raise
        except ServerRefused:
            # Repeating it cannot help, and would keep the device from ever working again.
            self._store.update(pending_report="")
            raise
        self._store.update(pending_report="")
        self._journal.acknowledged(report, state.pending_round, ack.duplicate, start_ms)
        return 0.0

    def _hand_in(self, report: pb.Report, first: int) -> pb.Ack:
        try:
            return self._cloud.send_report(_rest_of(report, first))
        except ScalarsMissing:
            # What went ahead was dropped there with its lease, which this device has back or may still end.
            self._store.update(pending_first=0)
            return self._cloud.send_report(report)

    def drop(self, error: CooperLLMError) -> float:
        """Drops work that nobody waits for any more. Answers a pause in seconds, which keeps a confused cloud
        from being asked in a loop.
        """
        self._store.update(pending_report="", charged=[])
        self._store.progress.clear()
        wait_s = self._uniform(0.0, LOST_PAUSE_S)
        self._journal.tell("lost", detail=error.message, wait_s=wait_s)
        return wait_s


def _rest_of(report: pb.Report, first: int) -> pb.Report:
    """The report without the scalars that the cloud has acknowledged."""
    rest = pb.Report()
    rest.CopyFrom(report)
    del rest.scalars[:first]
    rest.first_scalar = first
    return rest
