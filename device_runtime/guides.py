"""Guides as they arrive: chunks in, float32 slices of segments out, each checked before anything uses it.

A guide is zero outside its segments. Its SHA-256 is that of its segments' decoded float32 bytes, concatenated
in order of segment; each segment's encoded bytes have a hash of their own, so that work on a segment can
start while the next one is still on the wire.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protos import federation_pb2 as pb

from .errors import ArtifactError, BadArtifact, UnsupportedTask

Slices = dict[int, NDArray[np.float32]]  # by segment


@dataclass
class _Arriving:
    """The encoded bytes of one segment of one guide, as far as they are here."""

    data: bytearray
    sha256: bytes


class GuideStream:
    """Puts the chunks of one task's guides together.

    `guides` is what the task announced, `counts` the number of parameters of every segment.

    Raises UnsupportedTask at once when a guide names segments or sizes that this adapter does not have.
    """

    def __init__(self, guides: Sequence[pb.Guide], counts: Mapping[int, int]) -> None:
        self._counts = counts
        self._segments = {guide.sha256: tuple(guide.segments) for guide in guides}
        self._arriving: dict[tuple[bytes, int], _Arriving] = {}
        self.decoded: dict[bytes, Slices] = {guide.sha256: {} for guide in guides}
        for guide in guides:
            segments = tuple(guide.segments)
            if len(guide.sha256) != 32 or not segments or sorted(set(segments)) != list(segments):
                raise UnsupportedTask("a guide needs a SHA-256 and ascending segments: correct the task")
            if any(not counts.get(segment) for segment in segments):
                raise UnsupportedTask("a guide names a segment without parameters: correct the task")

    def add(self, chunk: pb.GuideChunk) -> tuple[bytes, int] | None:
        """Takes one chunk; answers (guide, segment) when it was the last one of a segment.

        Raises ArtifactError when it contradicts the task or its hash (drop all, stream again) and
        UnsupportedTask for an encoding that this release does not know.
        """
        key = (chunk.guide_sha256, chunk.segment)
        if chunk.segment not in self._segments.get(chunk.guide_sha256, ()):
            raise ArtifactError("a chunk of no guide of this task arrived: stream the guides again")
        if chunk.encoding != pb.GUIDE_ENCODING_FLOAT32:
            raise UnsupportedTask(f"guide encoding {chunk.encoding} is not known here: update the app")
        arriving = self._arriving.setdefault(key, _Arriving(bytearray(), chunk.segment_sha256))
        size_bytes = 4 * self._counts[chunk.segment]
        expected = (len(arriving.data), size_bytes, arriving.sha256)
        if (chunk.offset_bytes, chunk.segment_size_bytes, chunk.segment_sha256) != expected or not chunk.data:
            raise ArtifactError("the chunks of a guide do not fit together: stream the guides again")
        if len(arriving.data) + len(chunk.data) > size_bytes:
            raise ArtifactError("a guide is larger than its segment: stream the guides again")
        arriving.data += chunk.data
        if len(arriving.data) < size_bytes:
            return None
        if hashlib.sha256(arriving.data).digest() != arriving.sha256:
            raise ArtifactError("a segment of a guide arrived altered: stream the guides again")
        self.decoded[chunk.guide_sha256][chunk.segment] = decode(bytes(arriving.data))
        del self._arriving[key]
        return key

    def finish(self) -> dict[bytes, bytes]:
        """The decoded bytes of every guide, once all are in and have their hashes. Raises ArtifactError."""
        complete = {}
        for sha256, segments in self._segments.items():
            slices = self.decoded[sha256]
            if set(slices) != set(segments):
                raise ArtifactError("segments of a guide are missing: stream the guides again")
            data = b"".join(slices[segment].tobytes() for segment in segments)
            if hashlib.sha256(data).digest() != sha256:
                raise ArtifactError("a guide is not the one that was announced: stream the guides again")
            complete[sha256] = data
        return complete


def decode(data: bytes) -> NDArray[np.float32]:
    """Little-endian float32 bytes as values. Raises BadArtifact when one is not finite."""
    values = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
    if not np.all(np.isfinite(values)):
        raise BadArtifact("a guide contains NaN or infinity: send another")
    return values


def split(data: bytes, segments: Iterable[int], counts: Mapping[int, int]) -> Slices | None:
    """The slices of a guide that was kept as its decoded bytes, or None when they are of other segments."""
    slices: Slices = {}
    start = 0
    for segment in segments:
        end = start + 4 * counts.get(segment, 0)
        slices[segment] = decode(data[start:end])
        start = end
    return slices if start == len(data) else None
