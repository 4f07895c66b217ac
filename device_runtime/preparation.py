"""What a permitted directions task needs beside the adapter: its scale, and its guides, whole or arriving."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protos import federation_pb2 as pb

from .budget import Budget, Disclosure
from .holdings import Holdings
from .journal import Journal
from .store import Store
from .streamed import Feed, can_stream
from .tasks import Ready, allow_scalars, permit_directions

if TYPE_CHECKING:
    from .engine import Engine


@dataclass(frozen=True)
class Preparation:
    """Fetches, and decides with what it sees whether the task may run. `stopped` says whether to give up."""

    holdings: Holdings
    store: Store
    budget: Budget
    journal: Journal
    stopped: Callable[[], bool]

    def prepare(self, task: pb.Task, engine: Engine, opened: ExitStack) -> Ready:
        """Puts the scale into the engine, and guides: by a feed that ends with `opened`, or whole, once they
        make directions that the budget allows. A phase of its own where something may have to arrive.

        Raises TaskRefused, TaskLost, ServerUnreachable or Stopped.
        """
        arriving = bool(task.directions.guides or task.directions.scale_sha256)
        start_ms = self.journal.phase("guides") if arriving else 0.0
        if can_stream(task.directions):
            ready = self._feed(task, engine, opened)
        else:
            supplies = self.holdings.supplies(task, self.stopped)
            weighed = permit_directions(task, supplies, engine, self.budget, self.store.state)
            ready = Ready(weighed, self.holdings.put(supplies))
        if arriving:
            self.journal.span("guides", start_ms)
        return ready

    def _feed(self, task: pb.Task, engine: Engine, opened: ExitStack) -> Ready:
        """Opens the stream of a task's guides: what is computed along them goes with it, see streamed.py."""
        sha256 = task.directions.scale_sha256
        scale = self.holdings.scale(sha256) if sha256 else None
        with engine.lock:
            engine.set_scale(scale)
        version = self.holdings.arriving(task, lambda: self.journal.version(task.update))
        announced = None if version is None else version.announced
        arrivals = opened.enter_context(self.holdings.arrivals(task, self.stopped, announced))

        def allow(wanted: Disclosure) -> Disclosure:
            return allow_scalars(task, wanted, engine, self.budget, self.store.state)

        note, pieces = self.journal.segment_span, self.holdings.pieces
        feed = Feed(task.directions, engine, arrivals, pieces, scale, allow, note, version)
        return Ready(guide_index=feed.index, feed=feed)
