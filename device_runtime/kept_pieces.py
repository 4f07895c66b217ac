"""What has arrived of guides, and of versions that come along, as it came: on disk, segment by segment.

A broken session goes on behind it, later groups of directions decode it again, and so does the record that
names a guide of the task before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from .guides import Piece, Slices, check_piece, decode
from .store import Store


class KeptPieces:
    """Pieces by name and segment. `counts` says how many parameters each segment has. One thread adds pieces
    while others read.
    """

    def __init__(self, store: Store, counts: Callable[[], Mapping[int, int]]) -> None:
        self._store, self._counts = store, counts
        self._changing = threading.Lock()  # a stream that was left may still add its last piece
        self._fresh: dict[tuple[bytes, int], Piece] = {}  # arrived, not on disk yet

    def keep_only(self, names: Collection[bytes]) -> None:
        """Drops what has another name."""
        wanted = {name.hex() for name in names}
        self._keep_where(lambda name: name in wanted)

    def drop(self, name: bytes) -> None:
        """Drops what has this name: it arrived as it was sent, and is of no use."""
        self._keep_where(lambda other: other != name.hex())

    def _keep_where(self, is_wanted: Callable[[str], bool]) -> None:
        with self._changing:
            self._fresh.clear()
            kept = {name: pieces for name, pieces in self._store.state.guides.items() if is_wanted(name)}
            self._store.update(guides=kept)
            files = [str(piece[1]) for pieces in kept.values() for piece in pieces.values()]
            self._store.keep_only("guides", files)

    def guide(self, sha256: bytes) -> Slices | None:
        """All of a guide that was kept, or None."""
        segments = {int(segment) for segment in self._store.state.guides.get(sha256.hex(), {})}
        segments |= {segment for name, segment in self._fresh if name == sha256}
        if not segments:
            return None
        slices: Slices = {}
        for segment in sorted(segments):
            values = self.guide_segment(sha256, segment)
            if values is None:
                return None
            slices[segment] = values
        return slices

    def guide_segment(self, sha256: bytes, segment: int) -> NDArray[np.float32] | None:
        """One segment of a guide that was kept, or None. Raises BadArtifact where it cannot be decoded."""
        found = self.piece(sha256, segment)
        return None if found is None else decode(*found, self._counts()[segment])

    def piece(self, name: bytes, segment: int) -> tuple[int, bytes] | None:
        """How one segment of a guide or a version is encoded, and its bytes; None where it was not kept."""
        fresh = self._fresh.get((name, segment))
        if fresh is not None:
            return fresh.encoding, fresh.data
        kept = self._store.state.guides.get(name.hex(), {}).get(str(segment))
        data = None if kept is None else self._store.read("guides", str(kept[1]))
        return None if kept is None or data is None else (int(kept[0]), data)

    def has_piece(self, guide: bytes, segment: int) -> bool:
        """Whether a piece is here, undamaged."""
        return self.piece(guide, segment) is not None

    def accept_piece(self, piece: Piece) -> None:
        """Holds a piece until it is kept. Raises BadArtifact where a guide cannot be decoded from it."""
        check_piece(piece, self._counts()[piece.segment])
        self._fresh[piece.guide, piece.segment] = piece

    def keep_piece(self, piece: Piece) -> None:
        """Keeps a piece on disk."""
        with self._changing:
            written = self._store.write("guides", piece.data)
            guides = self._store.state.guides
            mine: dict[str, list[int | str]] = {
                **guides.get(piece.guide.hex(), {}),
                str(piece.segment): [int(piece.encoding), written],
            }
            self._store.update(guides=guides | {piece.guide.hex(): mine})
        self._fresh.pop((piece.guide, piece.segment), None)
