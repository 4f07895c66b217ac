"""An adapter version that arrives with the guides of its task, a segment at a time.

A segment is measured on as soon as its piece is in the adapter; whether all pieces together are the version
that was promised is known with the last one. Until then nothing is kept of what was measured, and the adapter
becomes again what it was wherever anybody else may look at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from protos import federation_pb2 as pb

from .errors import BadVersion, UnsupportedTask
from .versions import adapter_sha256
from .zo.errors import VersionError

if TYPE_CHECKING:
    from .zo.layout import Layout


class Adapter(Protocol):
    """What is used here of engine.Engine."""

    @property
    def adapter(self) -> NDArray[np.float32]: ...


class Pieces(Protocol):
    """Where pieces lie that have arrived; see kept_pieces.py."""

    def piece(self, name: bytes, segment: int) -> tuple[int, bytes] | None: ...


class ArrivingVersion:
    """The version that a task's stream brings. When it is whole, `keep` writes it down, and `tell` is called.

    `held_version` is the version in the engine, None where that is of no use as a start.

    Raises UnsupportedTask for a task that would run on segments before they are of this version.
    """

    def __init__(
        self,
        task: pb.Task,
        held_version: int | None,
        engine: Adapter,
        layout: Layout,
        pieces: Pieces,
        keep: Callable[[], None],
        tell: Callable[[], None],
    ) -> None:
        self.announced = task.update.streamed
        self._update, self._held_version = task.update, held_version
        self._engine, self._layout, self._pieces = engine, layout, pieces
        self._keep, self._tell = keep, tell
        self._missing: set[int] = set(self.announced.segments)
        self._other: dict[int, NDArray[np.float32]] = {}  # of segments that entered: what they were before
        frozen = self._missing - set(task.directions.active_segments)
        if frozen or task.directions.exit_segment:
            raise UnsupportedTask(
                "a version streams only to tasks of all segments that moved: correct the task"
            )

    @property
    def is_kept(self) -> bool:
        """Whether it is in the engine and on disk."""
        return not (self._missing or self._other)

    def enter(self, segment: int) -> None:
        """Puts a segment into the engine that has arrived. Raises BadVersion when it is damaged."""
        if segment not in self._missing:
            return
        found = self._pieces.piece(self.announced.sha256, segment)
        if found is None:
            raise BadVersion("a version was damaged on this device's disk: stream it again")
        self._other[segment] = self._decoded(segment, *found)
        self._swap(segment)
        self._missing.discard(segment)

    def complete(self) -> None:
        """Makes it the version that this device holds, once every segment has entered.

        Raises BadVersion when the whole is not what was promised: check in again, claiming none.
        """
        if self.is_kept:
            return
        if self._missing or adapter_sha256(self._engine.adapter) != self._update.adapter_sha256:
            raise BadVersion("the update does not lead to the adapter it names: ask for a snapshot")
        self._keep()
        self._other.clear()
        self._tell()

    def undo(self) -> None:
        """Takes an unfinished version out of the engine again; what has arrived of it stays on disk."""
        for segment in self._other:
            self._swap(segment)
        self._missing |= set(self._other)
        self._other.clear()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Shows others the adapter as it was, while this task only waits."""
        for segment in self._other:
            self._swap(segment)
        try:
            yield
        finally:
            for segment in self._other:
                self._swap(segment)

    def _swap(self, segment: int) -> None:
        span = self._layout.segment_slice(segment)
        shown = self._engine.adapter[span].copy()
        self._engine.adapter[span] = self._other[segment]
        self._other[segment] = shown

    def _decoded(self, segment: int, encoding: int, data: bytes) -> NDArray[np.float32]:
        from .core.kernels import decode_piece

        before = None
        if encoding == pb.GUIDE_ENCODING_STEPS:
            if self._held_version != self._update.from_version:
                start = self._update.from_version
                raise BadVersion(f"the update starts from version {start}, which this device does not hold")
            before = self._engine.adapter  # whose segment is still that of before
        try:
            return decode_piece(data, before, self._layout, segment)
        except VersionError as error:
            raise BadVersion(str(error)) from error
