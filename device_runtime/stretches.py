"""Computing a task in as many stretches as the conditions that the device requires allow.

Work ends at the next finished direction when a condition no longer holds; the lease is kept, and the next
stretch goes on behind that direction. Nothing is locked in between: the app may use the adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from protos import federation_pb2 as pb

from .account import own_charge
from .errors import Stopped, TaskLost
from .journal import Journal
from .limits import CHECK_INTERVAL_S, Watch
from .private_examples import PrivateExamples
from .store import Store
from .tasks import Finding, Ready, carry_out
from .uplink import Cloud, Uplink

if TYPE_CHECKING:
    from .engine import Engine


class Stretches:
    """What a session asks about conditions, and who computes its tasks."""

    def __init__(
        self,
        cloud: Cloud,
        watch: Watch,
        journal: Journal,
        store: Store,
        gauss: Callable[[], float],
        pause: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        self._cloud, self._watch, self._journal, self._store = cloud, watch, journal, store
        self._gauss = gauss
        self._pause, self._clock = pause, clock
        self._paused = False
        self._lease_ends_s: float | None = None
        self._round_trip_s = 0.0

    def stopped(self) -> bool:
        """Whether stop() was called."""
        return self._watch.stopped()

    def conditions_hold(self) -> bool:
        """Whether all that is required holds; tells when that changes."""
        missing = self._watch.missing()
        if bool(missing) != self._paused:
            self._paused = bool(missing)
            if missing:
                self._journal.tell("paused", missing=missing)
            else:
                self._journal.tell("resumed")
        return not missing

    def checked_in(self, took_ms: float) -> None:
        """Hears how long the cloud took to answer."""
        self._round_trip_s = took_ms / 1000

    def begin_lease(self, task: pb.Task) -> None:
        """Counts a lease from now on: the check-in has just answered."""
        # Whatever another task was charged for, this one is not paid with it.
        self._store.update(charged=own_charge(task, self._store.state))
        lease_ms = task.lease_remaining_ms
        self._lease_ends_s = self._clock() + lease_ms / 1000 if lease_ms else None

    def compute(
        self,
        task: pb.Task,
        ready: Ready,
        engine: Engine,
        private: PrivateExamples,
    ) -> Finding:
        """Carries a task out; finished scalars go up meanwhile. Raises as carry_out does, TaskLost when the
        lease ends before the conditions hold again, and Stopped when the session's time is up.
        """
        uplink = Uplink(
            task, self._cloud, self._store, self._journal, self._clock, self._round_trip_s, self.stopped
        )
        with uplink:
            finding = self._compute(task, ready, engine, private, uplink)
        return replace(finding, received=uplink.received)

    def _compute(
        self, task: pb.Task, ready: Ready, engine: Engine, private: PrivateExamples, uplink: Uplink
    ) -> Finding:
        before, store = engine.work, self._store
        while True:
            start_ms = self._journal.phase("compute")
            try:
                finding = carry_out(
                    task, ready, engine, private, store, self._gauss, self._may_go_on, uplink.kept
                )
                return replace(finding, work=engine.work.since(before))
            except Stopped:
                if not self._paused:
                    raise
            finally:
                self._journal.span("compute", start_ms)
            self._await_conditions()

    def _may_go_on(self) -> bool:
        """Asked between directions."""
        return not self._watch.stopped() and self.conditions_hold() and not self._watch.time_is_up

    def _await_conditions(self) -> None:
        while not self.conditions_hold():
            if self._watch.time_is_up:
                raise Stopped("the session's time is up: the task goes on in the next one")
            if self._lease_ends_s is not None and self._clock() >= self._lease_ends_s:
                raise TaskLost("the lease expired while this device waited for its conditions")
            self._pause(CHECK_INTERVAL_S)
