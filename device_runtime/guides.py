"""Guides as they arrive: chunks in, encoded segments out, each checked before anything uses it.

A guide is zero outside its segments. Segments come in ascending order, at each of them one guide after the
other, each piece with a hash of its own: so work on a segment can start while the next one is on the wire.
The adapter version of their task may come the same way, as if it were the first guide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protos import federation_pb2 as pb

from .errors import ArtifactError, BadArtifact, UnsupportedTask

Slices = dict[int, NDArray[np.float32]]  # by segment
OF_VERSIONS = (pb.GUIDE_ENCODING_STEPS, pb.GUIDE_ENCODING_WHOLE_STEPS)
MOST_HEADER_BYTES = 4096  # by which a coded segment may be larger than its float32 values


class Piece(NamedTuple):
    """One encoded segment of one guide, or of a version, whole and as its hash says."""

    guide: bytes  # its name
    segment: int
    encoding: pb.GuideEncoding.ValueType
    data: bytes


def check_guides(announced: Sequence[pb.Guide], counts: Mapping[int, int]) -> None:
    """Raises UnsupportedTask when a guide names segments that this adapter, with `counts` parameters a
    segment, does not have.
    """
    if len({guide.sha256 for guide in announced}) < len(announced):
        raise UnsupportedTask("two guides have the same name: correct the task")
    for guide in announced:
        segments = list(guide.segments)
        if len(guide.sha256) != 32 or not segments or sorted(set(segments)) != segments:
            raise UnsupportedTask("a guide needs a name of 32 bytes and ascending segments: correct the task")
        if any(not counts.get(segment) for segment in segments):
            raise UnsupportedTask("a guide names a segment without parameters: correct the task")


class GuideAssembly:
    """Puts the chunks of one task's guides together, piece by piece, in the one order that there is. What has
    the name `version` among them is no guide.
    """

    def __init__(
        self, announced: Sequence[pb.Guide], counts: Mapping[int, int], version: bytes = b""
    ) -> None:
        self._counts, self._version = counts, version
        self._names = [guide.sha256 for guide in announced]
        self._missing = sorted(
            (segment, position) for position, guide in enumerate(announced) for segment in guide.segments
        )
        self._first: pb.GuideChunk | None = None  # of the piece that is arriving
        self._data = bytearray()

    @property
    def is_complete(self) -> bool:
        """Whether every piece is here."""
        return not self._missing

    @property
    def position(self) -> tuple[int, int, int]:
        """(segment, guide, byte) of the first byte that is missing."""
        return (*self._missing[0], len(self._data)) if self._missing else (0, 0, 0)

    def skip(self, guide: bytes, segment: int) -> None:
        """Counts a piece as here that nothing has to arrive of."""
        self._missing.remove((segment, self._names.index(guide)))

    def drop(self) -> None:
        """Forgets what is here of the piece that is arriving."""
        self._first, self._data = None, bytearray()

    def add(self, chunk: pb.GuideChunk) -> Piece | None:
        """Takes one chunk; answers the piece that it completes, if it does.

        Raises ArtifactError when it contradicts the task, the chunk before or its hash (stream the piece
        again) and UnsupportedTask for an encoding that this release does not know.
        """
        if not self._missing or (chunk.segment, chunk.guide) != self._missing[0]:
            raise ArtifactError("a chunk arrived that was not asked for: stream the guides again")
        first = self._first or chunk
        self._check(first, chunk)
        self._first = first
        self._data += chunk.data
        if len(self._data) < chunk.segment_size_bytes:
            return None
        data = bytes(self._data)
        self.drop()
        if hashlib.sha256(data).digest() != chunk.segment_sha256:
            raise ArtifactError("a segment of a guide arrived altered: stream the guides again")
        segment, position = self._missing.pop(0)
        return Piece(self._names[position], segment, chunk.encoding, data)

    def _check(self, first: pb.GuideChunk, chunk: pb.GuideChunk) -> None:
        size_bytes = chunk.segment_size_bytes
        whole_bytes = 4 * self._counts[chunk.segment]
        of_version = self._names[chunk.guide] == self._version
        if chunk.encoding == pb.GUIDE_ENCODING_FLOAT32 and not of_version:
            fits = size_bytes == whole_bytes
        elif chunk.encoding in (OF_VERSIONS if of_version else (pb.GUIDE_ENCODING_CODED,)):
            fits = 0 < size_bytes <= whole_bytes + MOST_HEADER_BYTES
        else:
            raise UnsupportedTask(f"guide encoding {chunk.encoding} is not known here: update the app")
        same = all(
            getattr(first, name) == getattr(chunk, name)
            for name in ("encoding", "segment_size_bytes", "segment_sha256")
        )
        follows = chunk.offset_bytes == len(self._data) and len(chunk.data) > 0
        if not (fits and same and follows and len(self._data) + len(chunk.data) <= size_bytes):
            raise ArtifactError("the chunks of a guide do not fit together: stream the guides again")


def check_piece(piece: Piece, count: int) -> None:
    """Raises BadArtifact where a guide's piece cannot be decoded. A version's are checked as they enter."""
    if piece.encoding not in OF_VERSIONS:
        decode(piece.encoding, piece.data, count)


def decode(encoding: int, data: bytes, count: int) -> NDArray[np.float32]:
    """The `count` values of an encoded segment. Raises BadArtifact when it is damaged or not finite."""
    from .core import kernels
    from .zo.errors import ZoError

    if encoding == pb.GUIDE_ENCODING_CODED:
        try:
            return kernels.decode_guide(data, count)
        except ZoError as error:
            raise BadArtifact(f"a guide cannot be decoded ({error}): send another") from error
    if encoding != pb.GUIDE_ENCODING_FLOAT32 or len(data) != 4 * count:
        raise BadArtifact("a guide has another size or encoding than its segment: send another")
    values = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
    if not np.all(np.isfinite(values)):
        raise BadArtifact("a guide has NaN or infinity: send another")
    return values
