"""A task's guides off the wire, chunk by chunk, over as many streams as it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from protos import federation_pb2 as pb

from .retry import Transient
from .statuses import meaning_of

LEAST_MEASURED_BYTES = 4096  # of chunks that waited for the link, before their speed says anything


class GuideSource:
    """The next chunk that is missing, over as many streams as it takes, and how fast the link brings them."""

    def __init__(
        self,
        task_id: str,
        start: tuple[int, int, int],
        version: bytes,
        open_stream: Callable[[pb.StreamGuidesRequest], Any],
        clock: Callable[[], float],
    ) -> None:
        self.link_bytes_per_s = 0.0
        self._task_id, self._start, self._version = task_id, start, version
        self._open_stream, self._clock = open_stream, clock
        self._stream: Any = None
        self._came_s = 0.0
        self._queued = (0, 0.0)  # bytes of chunks that had waited for the link, and the seconds it took

    def next(self) -> pb.GuideChunk:
        """One chunk. Raises Transient when the stream broke: the next call opens another."""
        if self._stream is None:
            segment, guide, byte = self._start
            request = pb.StreamGuidesRequest(
                task_id=self._task_id,
                first_segment=segment,
                first_guide=guide,
                first_byte=byte,
                version=self._version,
            )
            self._stream = self._open_stream(request)
        try:
            chunk: pb.GuideChunk = next(self._stream)
        except StopIteration:
            self._stream = None
            raise Transient("the stream of guides ended early") from None
        except grpc.RpcError as error:
            self._stream = None
            raise meaning_of("StreamGuides", error, True) from error
        self._start = chunk.segment, chunk.guide, chunk.offset_bytes + len(chunk.data)
        self._measure(chunk)
        return chunk

    def close(self) -> None:
        """Ends the stream that is open."""
        if self._stream is not None:
            self._stream.cancel()

    def _measure(self, chunk: pb.GuideChunk) -> None:
        """Between two chunks of which the second had been ready, nothing but the link took time."""
        before_s, self._came_s = self._came_s, self._clock()
        if chunk.queued:
            size_bytes, took_s = self._queued
            self._queued = size_bytes + chunk.ByteSize(), took_s + self._came_s - before_s
        if self._queued[0] >= LEAST_MEASURED_BYTES and self._queued[1] > 0:
            self.link_bytes_per_s = self._queued[0] / self._queued[1]
