"""A task's guides on their way: one thread takes them off the wire, others wait for the segment they need.

Every piece is kept on disk, encoded, so that it is there again for the next group of directions and for the
record that names it, and so that a broken session goes on behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from protos import federation_pb2 as pb

from .errors import ArtifactError, BadArtifact, Stopped
from .guides import GuideAssembly, Piece, check_guides

WAIT_S = 0.1  # between two looks at whether work was stopped
Stream = Callable[[tuple[int, int, int]], Iterator[pb.GuideChunk]]  # from (segment, guide, byte) on


class Keeper(Protocol):
    """Where pieces are kept; see kept_pieces.py."""

    def has_piece(self, guide: bytes, segment: int) -> bool: ...

    def accept_piece(self, piece: Piece) -> None: ...

    def keep_piece(self, piece: Piece) -> None: ...


class Arrivals:
    """All guides of one task. Use it in a `with` block, which ends the stream. What has the name `version`
    among those announced is the adapter version that they are about.

    Raises UnsupportedTask when the guides are of another adapter.
    """

    def __init__(
        self,
        announced: Sequence[pb.Guide],
        counts: Mapping[int, int],
        keeper: Keeper,
        stream: Stream,
        stopped: Callable[[], bool] = lambda: False,
        version: bytes = b"",
    ) -> None:
        check_guides(announced, counts)
        self._assembly, self._keeper = GuideAssembly(announced, counts, version), keeper
        self._version = version
        self._stream, self._stopped = stream, stopped
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._closed = False
        self._spans: list[tuple[str, int, float, float]] = []
        self._waiting = {(guide.sha256, segment) for guide in announced for segment in guide.segments}
        for guide, segment in sorted(self._waiting):
            if keeper.has_piece(guide, segment):
                self._assembly.skip(guide, segment)
                self._waiting.discard((guide, segment))
        self._thread = threading.Thread(target=self._run, name="guides", daemon=True)
        if self._waiting:
            self._thread.start()

    def __enter__(self) -> Arrivals:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = bool(self._waiting)
        if not self._closed and self._thread.is_alive():
            self._thread.join(WAIT_S)  # writes the last piece

    def await_segment(self, segment: int) -> None:
        """Returns once all guides' pieces of a segment are here.

        Raises what ended the stream (see Transport.stream_guides), BadArtifact where a piece arrived altered
        twice, and Stopped.
        """
        with self._changed:
            while any(missing == segment for _, missing in self._waiting):
                if self._error is not None:
                    raise self._error
                if self._stopped():
                    raise Stopped("stopped: call again to go on")
                self._changed.wait(WAIT_S)

    def take_spans(self) -> list[tuple[str, int, float, float]]:
        """("guide_arrived" or "version_arrived", segment, start_ms, end_ms) of each piece since the last
        call, from its first byte to its last.
        """
        with self._changed:
            spans, self._spans = self._spans, []
        return spans

    def _run(self) -> None:
        try:
            self._receive(last=False)
        except Exception as error:  # whatever it is: those who wait must hear of it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _receive(self, last: bool) -> None:
        """Takes chunks until all is here; a piece that contradicts itself is streamed once more."""
        assembly, start_ms = self._assembly, time.time() * 1000
        try:
            for chunk in self._stream(assembly.position):
                if chunk.offset_bytes == 0:
                    start_ms = time.time() * 1000
                piece = assembly.add(chunk)
                with self._changed:
                    if self._closed:
                        return
                    if piece is not None:
                        self._keeper.accept_piece(piece)
                        last = False
                        name = "version_arrived" if piece.guide == self._version else "guide_arrived"
                        self._spans.append((name, piece.segment, start_ms, time.time() * 1000))
                        self._waiting.discard((piece.guide, piece.segment))
                        self._changed.notify_all()
                if piece is not None:  # nobody has to wait for the disk
                    self._keeper.keep_piece(piece)
                if assembly.is_complete:
                    return
            raise ArtifactError("segments of a guide are missing: stream the guides again")
        except ArtifactError as error:
            if last:
                raise BadArtifact(str(error)) from error
            assembly.drop()
            self._receive(last=True)
