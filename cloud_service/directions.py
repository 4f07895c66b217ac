"""What is measured and what a version is made of: directions, guides and records, as plain frozen values.

Fields that also travel are named as in federation.proto.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class GuideTerm:
    guide_sha256: bytes
    coefficient: float


@dataclass(frozen=True)
class Direction:
    """z = isotropic_scale * s (.) v(seed) + sum_j coefficient_j * u_j, for `count` consecutive seeds.

    In segments before `boundary` the noise of number d is v(prefix_seed + d - d mod per_prefix). What is
    `exact` is measured as a slope, without differences.
    """

    seed: int
    count: int
    isotropic_scale: float
    guides: tuple[GuideTerm, ...] = ()
    boundary: int = 0
    prefix_seed: int = 0
    per_prefix: int = 1
    exact: bool = False

    def expanded(self) -> tuple[Direction, ...]:
        """Its directions one by one, each of count 1."""
        return tuple(
            replace(
                self,
                seed=(self.seed + number) % 2**64,
                count=1,
                prefix_seed=self._prefix(number),
                per_prefix=1,
            )
            for number in range(self.count)
        )

    def _prefix(self, number: int) -> int:
        return (self.prefix_seed + number - number % self.per_prefix) % 2**64 if self.boundary else 0


@dataclass(frozen=True)
class Record:
    """One version as a replayable list, see Record in federation.proto."""

    epsilon: float
    scale_sha256: bytes
    update_seed: int
    active_segments: tuple[int, ...]
    directions: tuple[Direction, ...]
    coefficients: tuple[float, ...]
    guides: tuple[GuideTerm, ...] = ()


@dataclass(frozen=True)
class Guide:
    """A vector that devices may receive; `values` has n entries, zero outside `segments`."""

    sha256: bytes  # of the segments' float32 bytes, concatenated
    segments: tuple[int, ...]
    values: Float32


@dataclass(frozen=True)
class Guides:
    """What public data say about the round's version: S^2 times their gradient is `norm * gradient.values`.

    S is the diagonal matrix of the scale (I without one). The values are made as long as the scale is on the
    guide's segments, so that noise and guide are of one size.
    """

    gradient: Guide | None = None
    norm: float = 0.0
