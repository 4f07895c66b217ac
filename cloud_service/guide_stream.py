"""A guide on its way to one device: the chunks of its segments, as soon as each is sampled."""

from __future__ import annotations

from collections.abc import Iterator

from cloud_service.plan import ClientTask, RoundPlan
from cloud_service.shelf import Piece, Shelf
from cloud_service.wire import WireError
from protos import federation_pb2 as pb

CHUNK_BYTES = 16 << 10
"""Small enough that what is under way to a slow device is little, and that a link is measured on few."""


def chunks(
    shelf: Shelf, plan: RoundPlan, task: ClientTask, request: pb.StreamGuidesRequest
) -> Iterator[pb.GuideChunk | None]:
    """The chunks of a task's guide from where a request starts; None stands for "not ready, ask again".

    At any moment it holds one chunk. In a round whose parts come in turn nothing is ready before all is.

    Raises WireError when the request starts at no byte of the guide: the device starts again at 0.
    """
    guide = plan.guide_of(task)
    if guide is None:
        return
    later = [segment for segment in guide.segments if segment >= request.first_segment]
    at_first = later and later[0] == request.first_segment
    if request.first_guide or not later or (request.first_byte and not at_first):
        raise WireError("OUT_OF_RANGE", "no segment or guide to start from: start again at 0")
    yield from _from(shelf, plan, task.guide_level, later, request.first_byte)


def _from(
    shelf: Shelf, plan: RoundPlan, level: int, segments: list[int], first_byte: int
) -> Iterator[pb.GuideChunk | None]:
    queued = False
    for segment in segments:
        while (piece := _ready(shelf, plan, level, segment)) is None:
            yield None
            queued = False
        if first_byte > piece.size_bytes:  # at its end: all of it is there
            raise WireError("OUT_OF_RANGE", "no byte to start from: start again at 0")
        for offset_bytes in range(first_byte, piece.size_bytes, CHUNK_BYTES):
            data = shelf.data(piece, offset_bytes, CHUNK_BYTES)
            ends = offset_bytes + len(data) == piece.size_bytes
            yield pb.GuideChunk(
                segment=segment,
                encoding=piece.encoding,
                offset_bytes=offset_bytes,
                segment_size_bytes=piece.size_bytes,
                segment_sha256=bytes.fromhex(piece.sha256),
                data=data,
                queued=queued,
                last=ends and segment == segments[-1],
            )
            queued = True
        first_byte = 0


def _ready(shelf: Shelf, plan: RoundPlan, level: int, segment: int) -> Piece | None:
    if plan.settings.in_turn and not shelf.is_sampled(plan.round):
        return None
    return shelf.piece(plan.round, level, segment)
