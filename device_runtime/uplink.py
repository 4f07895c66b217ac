"""A task's finished scalars on their way up while further directions run.

Between two groups of directions the working thread hands over what was finished; a thread of its own carries
each part, at most one at a time. Before the first part leaves, the task's disclosure is charged to the
account on disk, and the scalars themselves are on disk: a device that loses power never sends another value
for a scalar that has left. A part that is lost is no error: the report carries what was not acknowledged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from protos import federation_pb2 as pb

from .account import ahead_changes
from .budget import Disclosure
from .errors import ServerUnreachable
from .journal import Journal
from .store import Store

LEAST_PART_SCALARS = 4
GROWTH = 3
FULL_PART_SCALARS = 64


class Cloud(Protocol):
    """What is used here of Transport."""

    def send_scalars(self, part: pb.Scalars) -> pb.ScalarsAck: ...


def is_worth_a_call(finished: int, tried: int, rest_s: float, round_trip_s: float) -> bool:
    """Whether scalars should go up ahead of their report: `tried` of the `finished` ones went before, and
    directions will run for another `rest_s`.

    Where less than a round trip of work is left, the report is there as soon as a part would be. And a call
    costs as much on the wire as some 80 scalars (its signature, its ids): so each part holds three times what
    went before, and from 64 scalars on it is full. A task of 64 makes 2 calls, one of 1,000 makes 17.
    """
    least = min(max(LEAST_PART_SCALARS, GROWTH * tried), FULL_PART_SCALARS)
    return rest_s > round_trip_s and finished - tried >= least


class Uplink:
    """The parts of one task. Use it in a `with` block: after it, no further part leaves.

    `round_trip_s` is what the last call took. Tasks whose parts come in turn, and such as are no directions,
    send none.
    """

    def __init__(
        self,
        task: pb.Task,
        cloud: Cloud,
        store: Store,
        journal: Journal,
        clock: Callable[[], float],
        round_trip_s: float,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._task, self._cloud, self._store, self._journal = task, cloud, store, journal
        self._clock, self._round_trip_s, self._stopped = clock, round_trip_s, stopped
        steps = task.directions.steps
        self._scalars = sum(max(1, direction.count) for step in steps for direction in step.directions)
        self._came_s = clock()
        self._lock = threading.Lock()  # of all below
        self._received = self._tried = min(task.received_scalars, self._scalars)
        self._is_open = not task.directions.in_turn
        self._is_flying = False
        self._spans: list[tuple[float, float]] = []

    def __enter__(self) -> Uplink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._is_open = False
        self._note_spans()

    @property
    def received(self) -> int:
        """How many of the task's scalars the cloud has acknowledged, from the first on."""
        with self._lock:
            return self._received

    def kept(self, scalars: list[float], disclosure: Disclosure) -> None:
        """Hears that the next scalars of a permitted task lie in the store; `disclosure` is the task's.

        Raises StoreFull or StoreError: then nothing more has left.
        """
        before_s, self._came_s = self._came_s, self._clock()
        self._note_spans()
        finished = self._store.progress.of(self._task.task_id)
        rest_s = (self._scalars - len(finished)) * (self._came_s - before_s) / len(scalars)
        with self._lock:
            may_go = self._is_open and not self._is_flying
            first, tried, round_trip_s = self._received, self._tried, self._round_trip_s
        if self._stopped() or not may_go or not is_worth_a_call(len(finished), tried, rest_s, round_trip_s):
            return
        part = pb.Scalars(task_id=self._task.task_id, first=first, scalars=finished[first:])
        self._store.progress.sync()
        state, now_ms = self._store.state, self._journal.now_ms()
        self._store.update(**ahead_changes(self._task, disclosure, state, now_ms, part.ByteSize()))
        with self._lock:
            self._tried, self._is_flying = len(finished), True
        threading.Thread(target=self._send, args=(part,), name="uplink", daemon=True).start()

    def _send(self, part: pb.Scalars) -> None:
        start_ms, start_s = self._journal.now_ms(), self._clock()
        received, goes_on = 0, True
        try:
            received = self._cloud.send_scalars(part).received
        except ServerUnreachable:
            pass  # the next part starts where this one did
        except (
            Exception
        ):  # refused, the lease is gone, or the connection was closed: the report will hear why
            goes_on = False
        with self._lock:
            self._is_flying = False
            self._is_open = self._is_open and goes_on
            if received:
                self._received = min(received, part.first + len(part.scalars))
                self._round_trip_s = self._clock() - start_s
                self._spans.append((start_ms, self._journal.now_ms()))

    def _note_spans(self) -> None:
        """The journal belongs to the working thread."""
        with self._lock:
            spans, self._spans = self._spans, []
        for start_ms, end_ms in spans:
            self._journal.span("scalars_sent", start_ms, end_ms)
