"""Which tensor of which segment sits at which offset of the adapter."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_runtime.zo.errors import LayoutError
from device_runtime.zo.grid import MAX_EXPONENT, MIN_EXPONENT, check_grid


@dataclass(frozen=True)
class LayoutTensor:
    """One tensor of the adapter: `count` elements from `offset`, on the grid of 2^-exponent."""

    name: str
    segment: int
    shape: tuple[int, ...]
    offset: int
    exponent: int

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def span(self) -> slice:
        """The tensor's place in the adapter."""
        return slice(self.offset, self.offset + self.count)


@dataclass(frozen=True)
class Layout:
    """All tensors of an adapter, ordered by segment, then by name, without gaps.

    Raises LayoutError when they are not: the caller refuses the manifest.
    """

    tensors: tuple[LayoutTensor, ...]

    def __post_init__(self) -> None:
        expected_offset = 0
        previous: tuple[int, str] | None = None
        for tensor in self.tensors:
            _check_tensor(tensor)
            place = (tensor.segment, tensor.name)
            if previous is not None and place <= previous:
                raise LayoutError(f"layout is not ordered by segment and name at {tensor.name}: export again")
            if tensor.offset != expected_offset:
                found = f"{tensor.name} is at offset {tensor.offset}, not {expected_offset}"
                raise LayoutError(f"{found}: export again")
            previous = place
            expected_offset += tensor.count

    @staticmethod
    def build(entries: Iterable[tuple[str, int, Sequence[int], int]]) -> Layout:
        """Return the layout of (name, segment, shape, exponent) entries given in any order.

        Raises LayoutError when a name occurs twice in a segment, or an entry is malformed.
        """
        tensors = []
        offset = 0
        for name, segment, shape, exponent in sorted(entries, key=lambda entry: (entry[1], entry[0])):
            tensor = LayoutTensor(name, segment, tuple(int(size) for size in shape), offset, exponent)
            tensors.append(tensor)
            offset += tensor.count
        return Layout(tuple(tensors))

    @property
    def parameters(self) -> int:
        """n, the adapter's length."""
        return sum(tensor.count for tensor in self.tensors)

    @property
    def segments(self) -> tuple[int, ...]:
        """The segments that own at least one tensor, ascending."""
        return tuple(sorted({tensor.segment for tensor in self.tensors}))

    def segment_tensors(self, segment: int) -> tuple[LayoutTensor, ...]:
        """Return a segment's tensors, in order."""
        return tuple(tensor for tensor in self.tensors if tensor.segment == segment)

    def segment_slice(self, segment: int) -> slice:
        """Return a segment's place in the adapter: an empty slice where it has no tensors."""
        start = sum(tensor.count for tensor in self.tensors if tensor.segment < segment)
        return slice(start, start + sum(tensor.count for tensor in self.segment_tensors(segment)))

    def sha256(self) -> str:
        """Return the layout's SHA-256 in hex.

        Hashed are UTF-8 lines `name TAB segment TAB d0xd1 TAB offset TAB exponent LF`, one a tensor, in
        order; the shape is its sizes joined with x (empty for a scalar).
        """
        digest = hashlib.sha256()
        for tensor in self.tensors:
            shape = "x".join(str(size) for size in tensor.shape)
            line = f"{tensor.name}\t{tensor.segment}\t{shape}\t{tensor.offset}\t{tensor.exponent}\n"
            digest.update(line.encode())
        return digest.hexdigest()

    def check(self, adapter: NDArray[np.float32]) -> None:
        """Accept an adapter of this layout: float32, length n, every value finite, bounded, on its grid, not
        -0.0.

        Raises LayoutError, naming the tensor: the caller refuses the adapter.
        """
        if adapter.dtype != np.float32 or adapter.shape != (self.parameters,):
            found = f"{adapter.dtype} of shape {adapter.shape}"
            expected = f"float32 of length {self.parameters}"
            raise LayoutError(f"the adapter is {found}, not {expected}: use the bundle it was made for")
        for tensor in self.tensors:
            check_grid(adapter[tensor.span], tensor.exponent, tensor.name)


def _check_tensor(tensor: LayoutTensor) -> None:
    if not tensor.name or any(character in tensor.name for character in "\t\n\r"):
        raise LayoutError(f"{tensor.name!r} is no tensor name: use one without tabs and line breaks")
    if tensor.segment < 0 or any(size < 0 for size in tensor.shape):
        raise LayoutError(f"{tensor.name} has a negative segment or size: export again")
    if not MIN_EXPONENT <= tensor.exponent <= MAX_EXPONENT:
        raise LayoutError(f"{tensor.name} has grid exponent {tensor.exponent}: use one within [-100, 100]")
