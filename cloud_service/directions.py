"""What is measured and what a version is made of: directions, guides and records, as plain frozen values.

Fields that also travel are named as in federation.proto.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

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
    """A vector u that devices may receive, by its name; it is zero outside `segments`."""

    name: bytes  # 32 bytes
    segments: tuple[int, ...]
    length: float  # |u|, about: what it is made to have, before it is compressed


@dataclass(frozen=True)
class Guides:
    """What public data say about a version: S^2 times their gradient is `norm * u`, u the guide as sampled.

    S is the diagonal matrix of the scale (I without one). u is made about as long as the scale is on the
    guide's segments, so that noise and guide are of one size. A device receives u at some level of
    compression (see compression.py), under a name of its own. All of this is known before u is.
    """

    base: bytes = b""  # what the names derive from; empty: there is no guide
    segments: tuple[int, ...] = ()
    length: float = 0.0
    norm: float = 0.0

    def facts(self) -> dict[str, Any]:
        """What JSON can hold of it, which is all."""
        return {
            "base": self.base.hex(), "segments": list(self.segments), "length": self.length, "norm": self.norm
        }  # fmt: skip

    @staticmethod
    def from_facts(facts: Mapping[str, Any]) -> Guides:
        """The inverse of `facts`."""
        segments = tuple(facts["segments"])
        return Guides(bytes.fromhex(facts["base"]), segments, facts["length"], facts["norm"])

    def at(self, level: int) -> Guide | None:
        """The guide at a level of compression, or None where there is no guide."""
        if not self.base:
            return None
        name = hashlib.sha256(self.base + level.to_bytes(4, "little")).digest()
        return Guide(name, self.segments, self.length)


Received = Mapping[bytes, Float32]
"""The guides of a round as devices received them, decoded: name -> (n,) values, zero outside the segments."""
