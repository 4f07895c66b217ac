"""A task's directions one by one, as the core takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from protos import federation_pb2 as pb

from .errors import UnsupportedTask


class Direction(NamedTuple):
    """z = isotropic_scale * s (.) v(seed) + sum_j coefficient_j * u_j on its active segments.

    In segments before `boundary` the noise is v(prefix_seed). An `exact` one, in the head alone, is measured
    without differences.
    """

    seed: int
    isotropic_scale: float
    guides: list[tuple[int, float]]  # (index that the guide was set under, coefficient)
    active_segments: list[int]
    boundary: int = 0
    prefix_seed: int = 0
    exact: bool = False


def expand(
    directions: Iterable[pb.Direction], active_segments: Iterable[int], guide_index: Mapping[bytes, int]
) -> list[Direction]:
    """Every direction by itself: `count` consecutive seeds each, wrapping at 2^64; see the contract.

    Raises UnsupportedTask when a direction names a guide that the task did not announce.
    """
    expanded = []
    for direction in directions:
        try:
            guides = [(guide_index[term.guide_sha256], term.coefficient) for term in direction.guides]
        except KeyError:
            raise UnsupportedTask("a direction names a guide that was not sent: correct the task") from None
        segments = list(direction.active_segments or active_segments)
        group = max(1, direction.per_prefix)
        for number in range(direction.count):
            seed = (direction.seed + number) % 2**64
            prefix = (direction.prefix_seed + number - number % group) % 2**64 if direction.boundary else 0
            expanded.append(
                Direction(
                    seed,
                    direction.isotropic_scale,
                    guides,
                    segments,
                    direction.boundary,
                    prefix,
                    direction.exact,
                )
            )
    return expanded
