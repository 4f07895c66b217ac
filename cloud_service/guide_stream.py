"""A guide on its way to one device: the chunks of its segments, as soon as each is sampled, and before each
that of the adapter version which the task is about, where the device needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from cloud_service.plan import ClientTask, RoundPlan
from cloud_service.shelf import Piece, Shelf
from cloud_service.wire import WireError
from protos import federation_pb2 as pb

CHUNK_BYTES = 16 << 10
"""Small enough that what is under way to a slow device is little, and that a link is measured on few."""


def chunks(
    shelf: Shelf,
    plan: RoundPlan,
    task: ClientTask,
    request: pb.StreamGuidesRequest,
    version: Mapping[int, Piece] = MappingProxyType({}),
) -> Iterator[pb.GuideChunk | None]:
    """The chunks of a task's guide from where a request starts, and in each segment before them those of the
    task's `version`, where it comes this way; None stands for "not ready, ask again".

    At any moment it holds one chunk. In a round whose parts come in turn nothing is ready before all is.

    Raises WireError when the request starts at no byte of the stream: the device starts again at 0.
    """
    guide = plan.guide_of(task)
    if guide is None:
        return
    number = 1 if version else 0  # of the guide, in the list that the device has
    places = sorted([(segment, number) for segment in guide.segments] + [(segment, 0) for segment in version])
    first = request.first_segment, request.first_guide
    later = [place for place in places if place >= first]
    if not later or ((request.first_guide or request.first_byte) and later[0] != first):
        raise WireError("OUT_OF_RANGE", "no segment or guide to start from: start again at 0")

    def ready(place: tuple[int, int]) -> Piece | None:
        segment, position = place
        return version[segment] if position < number else _ready(shelf, plan, task.guide_level, segment)

    yield from _from(shelf, later, request.first_byte, ready)


def _from(
    shelf: Shelf,
    places: list[tuple[int, int]],
    first_byte: int,
    ready: Callable[[tuple[int, int]], Piece | None],
) -> Iterator[pb.GuideChunk | None]:
    queued = False
    for place in places:
        while (piece := ready(place)) is None:
            yield None
            queued = False
        if first_byte > piece.size_bytes:  # at its end: all of it is there
            raise WireError("OUT_OF_RANGE", "no byte to start from: start again at 0")
        for offset_bytes in range(first_byte, piece.size_bytes, CHUNK_BYTES):
            data = shelf.data(piece, offset_bytes, CHUNK_BYTES)
            ends = offset_bytes + len(data) == piece.size_bytes
            yield pb.GuideChunk(
                segment=place[0],
                guide=place[1],
                encoding=piece.encoding,
                offset_bytes=offset_bytes,
                segment_size_bytes=piece.size_bytes,
                segment_sha256=bytes.fromhex(piece.sha256),
                data=data,
                queued=queued,
                last=ends and place == places[-1],
            )
            queued = True
        first_byte = 0


def _ready(shelf: Shelf, plan: RoundPlan, level: int, segment: int) -> Piece | None:
    if plan.settings.in_turn and not shelf.is_sampled(plan.round):
        return None
    return shelf.piece(plan.round, level, segment)
