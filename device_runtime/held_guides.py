"""Guides in the core, slice by slice: under which index each is known, and which slices are in memory now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .directions import Direction
from .errors import ArtifactError, UnsupportedTask

if TYPE_CHECKING:
    from . import core


class HeldGuides:
    """The guides that directions may speak of. A slice is in memory from `set` to `clear`."""

    def __init__(self, core: core.Core) -> None:
        self._core = core
        self._index: dict[bytes, int] = {}
        self._segments: list[frozenset[int]] = []  # by index
        self._held: dict[tuple[int, int], int] = {}  # bytes by index and segment

    @property
    def size_bytes(self) -> int:
        """The bytes of all slices that are in memory."""
        return sum(self._held.values())

    def name(self, guides: Mapping[bytes, Iterable[int]]) -> dict[bytes, int]:
        """Forgets all guides and says which ones there will be, with the segments of each; a guide is zero
        elsewhere. Answers their indices, for directions.
        """
        self._core.clear_guides(len(guides))
        self._held = {}
        self._segments = [frozenset(segments) for segments in guides.values()]
        self._index = {name: number for number, name in enumerate(guides)}
        return dict(self._index)

    def set(self, name: bytes, segment: int, values: NDArray[np.float32]) -> None:
        """Holds a slice, float32, one value a parameter of the segment, until it is cleared or replaced.

        Raises UnsupportedTask for a guide or a segment that was not named.
        """
        index = self._index_of(name, segment)
        self._core.set_guide(index, segment, values)
        self._held[index, segment] = values.nbytes

    def clear(self, name: bytes, segment: int) -> None:
        """Lets go of a slice, which counts as not here from then on."""
        index = self._index_of(name, segment)
        self._core.clear_guide(index, segment)
        self._held.pop((index, segment), None)

    def require(self, directions: Iterable[Direction], segment: int) -> None:
        """Raises ArtifactError where one of these directions is perturbed along a slice that is not here."""
        wanted = {
            index
            for direction in directions
            if segment in direction.active_segments
            for index, _ in direction.guides
        }
        for index in wanted:
            if segment in self._segments[index] and (index, segment) not in self._held:
                raise ArtifactError(f"segment {segment} of a guide is not here: stream the guides again")

    def _index_of(self, name: bytes, segment: int) -> int:
        index = self._index.get(name)
        if index is None or segment not in self._segments[index]:
            raise UnsupportedTask("a slice of no guide of this task: correct the task")
        return index
