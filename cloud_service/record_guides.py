"""The guides that records name, for devices that were not sent them: of another cohort, or at another level.

A guide in few bits and a record are far less than a delta of a whole adapter: python -m
benchmarks.version_forms prints both.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cloud_service.artifacts import Artifacts
from cloud_service.compression import AS_SAMPLED, LEVELS
from cloud_service.directions import Guides
from cloud_service.store import guide_segments, guides, one
from device_runtime.errors import ArtifactError
from protos import federation_pb2 as pb

# Of records and guides in one answer. A check-in has its deadline, and starts again where a link breaks; an
# artifact, which a delta or a snapshot is, goes on where it was.
MOST_BYTES = 128 << 10


def named_guides(
    connection: Connection, artifacts: Artifacts, names: Collection[str], rounds: Iterable[int]
) -> list[pb.EncodedGuide] | None:
    """The guides of these names (hex), which are some of these rounds'; None where one is not here any more,
    or all together are more than MOST_BYTES.
    """
    found: list[pb.EncodedGuide] = []
    left_bytes = MOST_BYTES
    for round_number in rounds if names else ():
        row = one(connection, guides, guides.c.round == round_number)
        if row is None:
            continue
        announced = Guides.from_facts(json.loads(row.facts))
        for level in (AS_SAMPLED, *LEVELS):
            guide = announced.at(level)
            if guide is None or guide.name.hex() not in names:
                continue
            of = sa.and_(guide_segments.c.round == round_number, guide_segments.c.level == level)
            rows = connection.execute(sa.select(guide_segments).where(of)).all()
            pieces = {item.segment: item for item in rows if item.sha256}
            left_bytes -= sum(item.size_bytes for item in pieces.values())
            if left_bytes < 0 or set(pieces) != set(guide.segments):
                return None
            try:
                data = {segment: artifacts.get(pieces[segment].sha256) for segment in guide.segments}
            except ArtifactError:  # half pruned, by a service that was killed
                return None
            segments = [
                pb.EncodedSegment(segment=segment, encoding=pieces[segment].encoding, data=data[segment])
                for segment in guide.segments
            ]
            found.append(pb.EncodedGuide(sha256=guide.name, segments=segments))
    return found if len(found) == len(names) else None
