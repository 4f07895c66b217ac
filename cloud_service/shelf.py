"""The guides of rounds as they lie on disk: segment by segment, at every level of compression that was asked
for.

A guide is announced before it is sampled: its names, segments and length are known by then, its values come
one segment after the other. What a stream sends was committed before; a level that nobody asked for is not
coded.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from cloud_service import compression
from cloud_service.artifacts import Artifacts
from cloud_service.compression import AS_SAMPLED, LevelFacts
from cloud_service.directions import Float32, Guides
from cloud_service.store import Store, guide_segments, guides, one
from device_runtime.core import kernels
from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb


@dataclass(frozen=True)
class Piece:
    """One encoded segment of a guide."""

    encoding: pb.GuideEncoding.ValueType
    sha256: str
    size_bytes: int


class Shelf:
    """Guides by round, level and segment. For any thread."""

    def __init__(self, store: Store, artifacts: Artifacts, layout: Layout) -> None:
        self._store, self._artifacts, self._layout = store, artifacts, layout
        self._lock = threading.Lock()
        self._announced: dict[int, Guides] = {}
        self._pieces: dict[tuple[int, int, int], Piece] = {}
        self._read: set[int] = set()  # rounds whose rows were read
        self._facts: dict[int, tuple[LevelFacts, ...]] = {}
        self.sampled: Callable[[], None] = lambda: None  # called whenever a segment has come

    def announce(self, round_number: int, announced: Guides) -> None:
        """Names a round's guide, or says that there is none."""
        facts = {
            "base": announced.base.hex(),
            "segments": list(announced.segments),
            "length": announced.length,
            "norm": announced.norm,
        }
        with self._store.transaction() as connection:
            if one(connection, guides, guides.c.round == round_number) is None:
                connection.execute(sa.insert(guides).values(round=round_number, facts=json.dumps(facts)))

    def guides(self, round_number: int) -> Guides | None:
        """What was announced for a round; None where nothing was yet."""
        known = self._announced.get(round_number)
        if known is not None:
            return known
        with self._store.transaction() as connection:
            row = one(connection, guides, guides.c.round == round_number)
        if row is None:
            return None
        facts = json.loads(row.facts)
        found = Guides(bytes.fromhex(facts["base"]), tuple(facts["segments"]), facts["length"], facts["norm"])
        self._announced[round_number] = found
        return found

    def put(self, round_number: int, segment: int, values: Float32, start_ms: int) -> None:
        """Keeps a segment as it was sampled: float32 (the segment's count,)."""
        data = values.astype("<f4", copy=False).tobytes()
        self._keep(round_number, AS_SAMPLED, segment, pb.GUIDE_ENCODING_FLOAT32, data, start_ms)
        self.sampled()

    def weigh_levels(self, round_number: int) -> None:
        """Finds out what every level makes of a round's guide, once it is sampled; for `facts`."""
        announced = self.guides(round_number)
        if announced is not None and announced.base and round_number not in self._facts:
            values = [self._values(round_number, AS_SAMPLED, segment) for segment in announced.segments]
            self._facts[round_number] = compression.facts_of(values, self._rms(announced))

    def facts(self, round_number: int) -> tuple[LevelFacts, ...]:
        """What every level makes of a round's guide; nothing where nobody has looked."""
        return self._facts.get(round_number, ())

    def counts(self, segments: Iterable[int]) -> list[int]:
        """How many parameters each of these segments has."""
        return [self._count(segment) for segment in segments]

    def forget_before(self, round_number: int) -> None:
        """Lets go of what is held in memory of earlier rounds; what `prune` leaves on disk stays."""
        # Other threads look in meanwhile: one entry at a time, and what they miss they read again.
        for number in [number for number in list(self._read) if number < round_number]:
            self._read.discard(number)
            self._announced.pop(number, None)
            self._facts.pop(number, None)
        for key in [key for key in list(self._pieces) if key[0] < round_number]:
            self._pieces.pop(key, None)

    def is_sampled(self, round_number: int) -> bool:
        """Whether all of a round's guide is here; so it is where there is none."""
        announced = self.guides(round_number)
        return announced is not None and all(
            self._known(round_number, AS_SAMPLED, segment) for segment in announced.segments
        )

    def piece(self, round_number: int, level: int, segment: int) -> Piece | None:
        """A segment at a level, coded when it is first asked for; None where it is not sampled yet."""
        known = self._known(round_number, level, segment)
        if known is not None or self._known(round_number, AS_SAMPLED, segment) is None:
            return known
        with self._lock:  # so that no two streams code the same
            known = self._known(round_number, level, segment)
            if known is not None:
                return known
            announced = self.guides(round_number)
            assert announced is not None  # before it was sampled
            start_ms = _now_ms()
            values = self._values(round_number, AS_SAMPLED, segment)
            data = compression.encode(values, self._rms(announced), level)
            return self._keep(round_number, level, segment, pb.GUIDE_ENCODING_CODED, data, start_ms)

    def data(self, piece: Piece, offset_bytes: int, size_bytes: int) -> bytes:
        """Some of a piece's bytes."""
        return self._artifacts.part(piece.sha256, offset_bytes, size_bytes)

    def received(self, round_number: int, levels: Iterable[int]) -> dict[bytes, Float32]:
        """A round's guide as devices get it at these levels, by name: (n,) each. Only once it is sampled."""
        announced = self.guides(round_number)
        found: dict[bytes, Float32] = {}
        for level in levels:
            guide = announced.at(level) if announced is not None else None
            if guide is not None:
                values = np.zeros(self._layout.parameters, np.float32)
                for segment in guide.segments:
                    self.piece(round_number, level, segment)
                    values[self._layout.segment_slice(segment)] = self._values(round_number, level, segment)
                found[guide.name] = values
        return found

    def _rms(self, announced: Guides) -> float:
        return announced.length / float(np.sqrt(sum(self.counts(announced.segments))))

    def _count(self, segment: int) -> int:
        span = self._layout.segment_slice(segment)
        return int(span.stop - span.start)

    def _values(self, round_number: int, level: int, segment: int) -> Float32:
        piece = self._known(round_number, level, segment)
        assert piece is not None  # the caller has it
        data = self._artifacts.get(piece.sha256)
        if piece.encoding == pb.GUIDE_ENCODING_CODED:
            return kernels.decode_guide(data, self._count(segment))
        return np.frombuffer(data, "<f4").astype(np.float32)

    def _known(self, round_number: int, level: int, segment: int) -> Piece | None:
        if round_number not in self._read:
            query = sa.select(guide_segments).where(guide_segments.c.round == round_number)
            with self._store.transaction() as connection:
                rows = connection.execute(query).all()
            for row in rows:
                piece = Piece(pb.GuideEncoding.ValueType(row.encoding), row.sha256, row.size_bytes)
                self._pieces[row.round, row.level, row.segment] = piece
            self._read.add(round_number)
        return self._pieces.get((round_number, level, segment))

    def _keep(
        self,
        round_number: int,
        level: int,
        segment: int,
        encoding: pb.GuideEncoding.ValueType,
        data: bytes,
        start_ms: int,
    ) -> Piece:
        known = self._known(round_number, level, segment)
        if known is not None:
            return known
        piece = Piece(encoding, self._artifacts.put(data), len(data))
        row = {
            "round": round_number,
            "level": level,
            "segment": segment,
            "encoding": encoding,
            "sha256": piece.sha256,
            "size_bytes": piece.size_bytes,
            "start_ms": start_ms,
            "end_ms": _now_ms(),
        }
        with self._store.transaction() as connection:
            connection.execute(sa.insert(guide_segments).values(row))
        self._pieces[round_number, level, segment] = piece
        return piece


def _now_ms() -> int:
    return int(time.time() * 1000)
