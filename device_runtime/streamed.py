"""Measuring along guides that still arrive: a segment is perturbed and run while the next is on the wire.

A group of directions runs in streaming order (see streaming.py): all of it in one segment before any of it in
the next, so of the guides one segment's values are held at a time. The first group goes with the stream;
every later one decodes the pieces again, which are on disk by then. The scalars are those of whole guides,
bit for bit. What the guides make of the directions (see concentration.py) is known when all has passed once,
and so is whether the version that may come along is the promised one; until then no scalar is kept or leaves.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from protos import federation_pb2 as pb

from .arrivals import Arrivals
from .arriving_version import ArrivingVersion
from .budget import Disclosure
from .concentration import Weighing
from .directions import Direction
from .errors import BadArtifact
from .groups import Between, units
from .local_update import Batch, measure_whole
from .segment_work import SegmentWork
from .streaming import Sizes, choose

if TYPE_CHECKING:
    from .engine import Engine

Note = Callable[[str, int, float, float], None]  # (span's name, segment, start_ms, end_ms)


class Pieces(Protocol):
    """Where pieces lie that have arrived; see kept_pieces.py."""

    def guide_segment(self, sha256: bytes, segment: int) -> NDArray[np.float32] | None: ...


def can_stream(task: pb.DirectionsTask) -> bool:
    """Whether a task's guides need not be whole at any time: nothing moves along them in between."""
    moves = any(step.local_learning_rate > 0 for step in task.steps[:-1])
    exact = any(direction.exact for step in task.steps for direction in step.directions)
    return bool(task.guides) and not (moves or exact)


class Feed:
    """A task's guides, one segment at a time, for the engine's measurements.

    `permit` says what the task discloses, or refuses it, once all guides have been weighed.
    """

    def __init__(
        self,
        task: pb.DirectionsTask,
        engine: Engine,
        arrivals: Arrivals,
        pieces: Pieces,
        scale: NDArray[np.float32] | None,
        permit: Callable[[Disclosure], Disclosure],
        note: Note = lambda name, segment, start_ms, end_ms: None,
        version: ArrivingVersion | None = None,
    ) -> None:
        self._task, self._engine, self._arrivals, self._pieces = task, engine, arrivals, pieces
        self._scale, self._permit, self._note, self._version = scale, permit, note, version
        segments = {guide.sha256: tuple(guide.segments) for guide in task.guides}
        self._segments: Mapping[bytes, tuple[int, ...]] = segments
        self.index = engine.name_guides(segments)
        self._weighing = Weighing(task, list(segments), engine.head_segment)
        self._unweighed = set(self._weighing.segments)
        self._permitted: Disclosure | None = None

    @property
    def disclosure(self) -> Disclosure:
        """What the task discloses. Only after a measurement."""
        if self._permitted is None:
            raise RuntimeError("the guides were not weighed yet: measure first")
        return self._permitted

    def measure(
        self, batches: list[Batch], directions: list[Direction], between: Between
    ) -> Iterator[NDArray[np.float64]]:
        """Yields the projected gradients of one group after the other, float64, one a direction.

        Raises what the core does, what ended the stream, and what `permit` does; BadVersion where the version
        that came along is not what was promised.
        """
        try:
            yield from self._measure(batches, directions, between)
        finally:
            if self._version is not None:
                self._version.undo()  # unless it was whole

    def _measure(
        self, batches: list[Batch], directions: list[Direction], between: Between
    ) -> Iterator[NDArray[np.float64]]:
        if self._task.in_turn:
            self._await_all()
        size = choose(self._sizes(batches, directions), self._engine.streaming_bytes).group
        waiting = deque(units(directions, self._engine.segment_counts))
        if size == 0:  # guides that are small beside hidden states: all of them, as ever
            for segment in self._arriving:
                self._enter(segment)
            self._decide()
            yield from measure_whole(self._engine, batches, directions, self._task, between)
            return
        while waiting:
            group = waiting.popleft()
            most = size if self._permitted is None else min(size, between.directions)
            while waiting and len(group) + len(waiting[0]) <= most:
                group = group + waiting.popleft()
            start_s = between.clock()
            rho = self._stream(batches, group)
            between.learn(len(group), between.clock() - start_s)
            self._decide()
            yield rho

    @property
    def _arriving(self) -> list[int]:
        of_version = () if self._version is None else self._version.announced.segments
        return sorted({*of_version, *(k for segments in self._segments.values() for k in segments)})

    def _await_all(self) -> None:
        with self._engine.unlocked():
            for segment in self._arriving:
                self._arrivals.await_segment(segment)

    def _sizes(self, batches: list[Batch], directions: list[Direction]) -> Sizes:
        counts = self._engine.segment_counts
        guided = [sum(k in segments for segments in self._segments.values()) for k in counts]
        state_bytes, context_bytes = self._engine.begun_bytes(batches)
        return Sizes(
            tuple(4 * count * guides for count, guides in zip(counts.values(), guided, strict=True)),
            state_bytes,
            len(directions),
            context_bytes,
            max((len(unit) for unit in units(directions, counts)), default=1),
        )

    def _stream(self, batches: list[Batch], group: list[Direction]) -> NDArray[np.float64]:
        task, engine = self._task, self._engine
        segments = engine.begin(
            batches, group, task.epsilon, list(task.active_segments), task.exit_segment, task.global_weight
        )
        try:
            for segment in segments:
                arrived_ms = self._enter(segment)
                before, start_ms = engine.work, _now_ms()
                engine.advance()
                self._note_run(segment, arrived_ms, start_ms, engine.work.since(before))
                self._leave(segment)
            return engine.finish().rho
        finally:
            engine.abandon()

    def _enter(self, segment: int) -> float:
        """Puts a segment of every guide into the engine, and of the version that comes along; predictions may
        run while it is waited for. Answers when the work on it began.
        """
        with nullcontext() if self._version is None else self._version.aside(), self._engine.unlocked():
            self._arrivals.await_segment(segment)
        arrived_ms = _now_ms()
        if self._version is not None:
            self._version.enter(segment)
        values = {}
        for name, segments in self._segments.items():
            if segment in segments:
                found = self._pieces.guide_segment(name, segment)
                if found is None:
                    raise BadArtifact("a guide was damaged on this device's disk: stream it again")
                values[name] = found
                self._engine.set_guide_segment(name, segment, found)
        if segment in self._unweighed:
            self._weigh(segment, values)
        return arrived_ms

    def _leave(self, segment: int) -> None:
        for name, segments in self._segments.items():
            if segment in segments:
                self._engine.clear_guide_segment(name, segment)

    def _weigh(self, segment: int, values: Mapping[bytes, NDArray[np.float32]]) -> None:
        span = self._engine.bundle.layout.segment_slice(segment)
        scale = None if self._scale is None else self._scale[span]
        self._weighing.add_segment(segment, span.stop - span.start, scale, values)
        self._unweighed.discard(segment)

    def _decide(self) -> None:
        """Permits or refuses the task, once; on no other version than the one that was promised."""
        if self._version is not None:
            self._version.complete()
        if self._permitted is None:
            for segment in sorted(self._unweighed):  # active, without a parameter that could run
                self._weigh(segment, {})
            self._permitted = self._permit(self._weighing.verdict())

    def _note_run(self, segment: int, arrived_ms: float, start_ms: float, work: SegmentWork) -> None:
        """Spans of the first group: later ones wait for nothing. Perturbing and running alternate; each span
        is as long as its sum, and looking at the guide counts as perturbing.
        """
        if self._permitted is None:
            for span in self._arrivals.take_spans():
                self._note(*span)
            perturbed_ms = min(_now_ms(), start_ms + sum((*work.perturb_ns, *work.check_ns)) / 1e6)
            self._note("perturb", segment, arrived_ms, perturbed_ms)
            self._note("run", segment, perturbed_ms, _now_ms())


def _now_ms() -> float:
    return time.time() * 1000
