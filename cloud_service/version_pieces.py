"""Versions that reach a device in the stream of its guides: one piece for each segment that moved.

What a segment needs is then there with the segment: work on it starts while later ones are on the wire.
Pieces are coded when the first device needs them, and written down before the answer that names them leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from cloud_service.artifacts import Artifacts
from cloud_service.directions import Float32
from cloud_service.plan import RoundPlan
from cloud_service.shelf import Piece
from cloud_service.store import version_pieces
from device_runtime.core.kernels import encode_piece
from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb

NOTHING = -1  # where a piece starts from that is the segment itself

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
    """The pieces that lead from one version, or from nothing, to another."""

    artifacts: Artifacts
    layout: Layout

    def announce(self, connection: Connection, start: int, number: int, rebuild: Rebuild) -> pb.Guide:
        """What the pieces from version `start`, or NOTHING, to version `number` are called, and the segments
        that have one; none where the two are the same.
        """
        rows = _rows(connection, start, number)
        if not rows:
            self._code(connection, start, number, rebuild)
            rows = _rows(connection, start, number)
        name = hashlib.sha256("".join(row.sha256 for row in rows).encode()).digest()
        return pb.Guide(sha256=name, segments=[row.segment for row in rows])

    def pieces(self, connection: Connection, start: int, number: int) -> dict[int, Piece]:
        """By segment; only after they were announced."""
        return {
            row.segment: Piece(pb.GuideEncoding.ValueType(row.encoding), row.sha256, row.size_bytes)
            for row in _rows(connection, start, number)
        }

    def _code(self, connection: Connection, start: int, number: int, rebuild: Rebuild) -> None:
        before, after = None if start == NOTHING else rebuild(start), rebuild(number)
        encoding = pb.GUIDE_ENCODING_WHOLE_STEPS if before is None else pb.GUIDE_ENCODING_STEPS
        for segment in self.layout.segments:
            span = self.layout.segment_slice(segment)
            if before is not None and np.array_equal(before[span], after[span]):
                continue
            data = encode_piece(before, after, self.layout, segment)
            row = {
                "start": start,
                "number": number,
                "segment": segment,
                "encoding": encoding,
                "sha256": self.artifacts.put(data),
                "size_bytes": len(data),
            }
            connection.execute(sa.insert(version_pieces).values(row))


def prune_pieces(connection: Connection, artifacts: Artifacts, newest: int) -> None:
    """Forgets the pieces that lead to old versions; to the last but one, a stream may still be under way."""
    old = version_pieces.c.number < newest - 1
    names = sa.select(version_pieces.c.sha256)
    gone = set(connection.execute(names.where(old)).scalars())
    for name in gone - set(connection.execute(names.where(~old)).scalars()):
        artifacts.remove(name)
    connection.execute(sa.delete(version_pieces).where(old))


def _rows(connection: Connection, start: int, number: int) -> list[Row[Any]]:
    of = sa.and_(version_pieces.c.start == start, version_pieces.c.number == number)
    query = sa.select(version_pieces).where(of).order_by(version_pieces.c.segment)
    return list(connection.execute(query).all())
