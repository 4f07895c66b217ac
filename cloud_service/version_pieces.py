"""Versions that reach a device in the stream of its guides: one piece for each segment that moved.

What a segment needs is then there with the segment: work on it starts while later ones are on the wire.
What leads from one version to the next is coded when a round closes, the rest when the first device needs it;
it is written down before the answer that names it leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from cloud_service.artifacts import Artifacts
from cloud_service.directions import Float32
from cloud_service.plan import RoundPlan
from cloud_service.shelf import Piece
from cloud_service.store import one, version_pieces, versions
from device_runtime.core.kernels import encode_delta, encode_piece
from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb

NOTHING = -1  # where pieces start that are the segments themselves
ALL_SEGMENTS = -1

Rebuild = Callable[[int], Float32]
"""The adapter of a version."""


def streamable(plan: RoundPlan, client_id: str) -> frozenset[int]:
    """The segments that a client's task enters one after the other: what moved in these may come with the
    task's guides. None where its guides are needed whole, or do not exist.
    """
    task, settings = plan.task(client_id), plan.settings
    if task is None or plan.guide_of(task) is None or settings.in_turn or settings.exit_segment:
        return frozenset()
    moves = any(step.local_learning_rate > 0 for step in task.steps[:-1])
    exact = any(item.exact for step in task.steps for item in step.directions)
    return frozenset() if moves or exact else frozenset(settings.active_segments)


@dataclass(frozen=True)
class VersionPieces:
    """What leads from one version, or from nothing, to another: in pieces, or in one where several versions
    lie in between. All of it is coded once and gone when nobody needs it any more.
    """

    artifacts: Artifacts
    layout: Layout

    def coded(self, start: int, number: int, before: Float32 | None, after: Float32) -> list[dict[str, Any]]:
        """The pieces from version `start`, or NOTHING, to version `number`, both (n,), as rows of the table;
        one for each segment that moved. The caller commits them.
        """
        encoding = pb.GUIDE_ENCODING_WHOLE_STEPS if before is None else pb.GUIDE_ENCODING_STEPS
        rows = []
        for segment in self._moved(before, after):
            data = encode_piece(before, after, self.layout, segment)
            rows.append({"segment": segment, "sha256": self.artifacts.put(data), "size_bytes": len(data)})
        said = f"{start} {number} {encoding} " + " ".join(f"{row['segment']} {row['sha256']}" for row in rows)
        shared = {
            "start": start,
            "number": number,
            "encoding": encoding,
            "name": hashlib.sha256(said.encode()).hexdigest(),
        }
        return [row | shared for row in rows]

    def announce(
        self,
        connection: Connection,
        start: int,
        number: int,
        rebuild: Rebuild,
        streamable: Collection[int],
    ) -> pb.Guide | None:
        """What these pieces are called, and their segments; None where others moved than are `streamable`."""
        rows = between(connection, start, number)
        if not rows:
            before, after = None if start == NOTHING else rebuild(start), rebuild(number)
            if not set(self._moved(before, after)) <= set(streamable):
                return None
            connection.execute(sa.insert(version_pieces), self.coded(start, number, before, after))
            rows = between(connection, start, number)
        segments = [row.segment for row in rows]
        if not set(segments) <= set(streamable):
            return None
        return pb.Guide(sha256=bytes.fromhex(rows[0].name), segments=segments)

    def named(self, connection: Connection, name: bytes, number: int) -> dict[int, Piece]:
        """By segment; nothing where no pieces to this version have that name."""
        of = sa.and_(version_pieces.c.name == name.hex(), version_pieces.c.number == number)
        return {
            row.segment: Piece(pb.GuideEncoding.ValueType(row.encoding), row.sha256, row.size_bytes)
            for row in _pieces(connection, of)
        }

    def in_one(self, connection: Connection, start: int, number: int, rebuild: Rebuild) -> tuple[str, int]:
        """A delta over several versions: its SHA-256 and its size in bytes."""
        same = (version_pieces.c.start == start, version_pieces.c.number == number)
        row = one(connection, version_pieces, *same, version_pieces.c.segment == ALL_SEGMENTS)
        if row is not None:
            return row.sha256, row.size_bytes
        data = encode_delta(rebuild(start), rebuild(number), self.layout)
        sha256 = self.artifacts.put(data)
        connection.execute(
            sa.insert(version_pieces).values(
                start=start, number=number, segment=ALL_SEGMENTS, sha256=sha256, size_bytes=len(data)
            )
        )
        return sha256, len(data)

    def _moved(self, before: Float32 | None, after: Float32) -> list[int]:
        spans = {segment: self.layout.segment_slice(segment) for segment in self.layout.segments}
        return [k for k, span in spans.items() if before is None or np.any(before[span] != after[span])]


def prune_pieces(connection: Connection, artifacts: Artifacts, newest: int) -> None:
    """Forgets what leads to versions before the last two: a stream that outlived its lease may still run."""
    old = version_pieces.c.number < newest - 1
    names = sa.select(version_pieces.c.sha256)
    gone = set(connection.execute(names.where(old)).scalars())
    # Over versions of which only one moved, a delta has the bytes of that one's own.
    deltas = sa.select(versions.c.delta_sha256)
    gone -= set(connection.execute(deltas).scalars())
    for name in gone - set(connection.execute(names.where(~old)).scalars()):
        artifacts.remove(name)
    connection.execute(sa.delete(version_pieces).where(old))


def between(connection: Connection, start: int, number: int) -> list[Row[Any]]:
    """The rows of the pieces from version `start`, or NOTHING, to version `number`, by segment."""
    return _pieces(connection, sa.and_(version_pieces.c.start == start, version_pieces.c.number == number))


def _pieces(connection: Connection, of: sa.ColumnElement[bool]) -> list[Row[Any]]:
    query = sa.select(version_pieces).where(of, version_pieces.c.segment != ALL_SEGMENTS)
    return list(connection.execute(query.order_by(version_pieces.c.segment)).all())
