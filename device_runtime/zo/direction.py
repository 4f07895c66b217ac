"""Directions: z, its rounded form k, and the checks that come before the first perturbation.

The direction is the rounded one. Estimator, update and replay all use z' = k * 2^-e / epsilon, so rounding
costs alignment only and brings no bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from device_runtime.zo.errors import BelowGrid, NotFinite, OutOfRange, ZoError
from device_runtime.zo.grid import STEPS
from device_runtime.zo.layout import Layout, LayoutTensor
from device_runtime.zo.philox import signs

MAX_SQUARED_ERROR = 0.0004  # |z' - z| <= 0.02 |z|, squared
LANES = 8


@dataclass(frozen=True)
class Guide:
    """One guide u (float32, length n, zero outside its segments) and its coefficient c."""

    values: NDArray[np.float32]
    coefficient: float


@dataclass(frozen=True)
class Direction:
    """z = isotropic_scale * s (.) v(seed) + sum_j c_j * u_j, restricted to the active segments.

    `scale` is s (float32, length n, positive; None means 1). `active_segments` None means all. In segments
    before `boundary` the noise is v(prefix_seed) instead: directions that share it share what they do there
    (the first block of FedSPZO, arXiv 2502.10239).
    """

    seed: int
    isotropic_scale: float = 1.0
    scale: NDArray[np.float32] | None = None
    guides: tuple[Guide, ...] = ()
    active_segments: tuple[int, ...] | None = None
    boundary: int = 0
    prefix_seed: int = 0

    def seed_in(self, segment: int) -> int:
        """The seed of the noise in a segment."""
        return self.prefix_seed if segment < self.boundary else self.seed

    def is_active(self, segment: int) -> bool:
        """Whether the direction may be non-zero in a segment."""
        return self.active_segments is None or segment in self.active_segments


def unrounded(direction: Direction, tensor: LayoutTensor) -> NDArray[np.float64]:
    """Return z on one tensor of an active segment.

    z_i = isotropic_scale * s_i, negated where v_i = -1, then + c_j * u_ji for each guide in order; all in
    float64.

    Shapes: -> (tensor.count,) float64. Raises ZoError when a scalar is not finite: the caller refuses the
    task.
    """
    scalars = [direction.isotropic_scale, *(guide.coefficient for guide in direction.guides)]
    if not all(math.isfinite(scalar) for scalar in scalars):
        raise ZoError("isotropic_scale or a guide's coefficient is not finite: send finite ones")
    scale: NDArray[np.float64] = np.ones(tensor.count)
    if direction.scale is not None:
        scale = direction.scale[tensor.span].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # checked by grid_units
        magnitude = direction.isotropic_scale * scale
    z = np.where(
        signs(direction.seed_in(tensor.segment), tensor.offset, tensor.count) > 0, magnitude, -magnitude
    )
    for guide in direction.guides:
        with np.errstate(over="ignore", invalid="ignore"):  # the same
            z = z + guide.coefficient * guide.values[tensor.span].astype(np.float64)
    return z


def grid_units(direction: Direction, tensor: LayoutTensor, epsilon: float) -> NDArray[np.float64]:
    """Return y = (epsilon * z) * 2^e on one tensor of an active segment: the perturbation in grid steps,
    unrounded.

    Shapes: -> (tensor.count,) float64.

    Raises NotFinite, or OutOfRange where rint(y) would be 2^23 or more: the caller refuses the task.
    """
    check_epsilon(epsilon)
    z = unrounded(direction, tensor)
    if not np.all(np.isfinite(z)):
        raise NotFinite(f"a direction is not finite in {tensor.name}: drop its guide or scale")
    with np.errstate(over="ignore"):
        y: NDArray[np.float64] = (epsilon * z) * math.ldexp(1.0, tensor.exponent)
    if not np.all(np.abs(y) < STEPS - 0.5):
        raise OutOfRange(f"a perturbation of {tensor.name} is 2^23 grid steps or more: use a smaller epsilon")
    return y


def rounded_tensor(direction: Direction, tensor: LayoutTensor, epsilon: float) -> NDArray[np.float64]:
    """Return k = rint(y), half to even, on one tensor of an active segment: what `+1 * direction` adds, in
    steps.

    Shapes: -> (tensor.count,) float64, whole numbers below 2^23 in magnitude.

    Raises NotFinite or OutOfRange: the caller refuses the task.
    """
    return np.rint(grid_units(direction, tensor, epsilon))


def rounded(direction: Direction, layout: Layout, epsilon: float) -> NDArray[np.float64]:
    """Return k over the whole adapter, zero outside the direction's active segments. Shapes: -> (n,) float64.

    Raises NotFinite or OutOfRange: the caller refuses the task.
    """
    k = np.zeros(layout.parameters)
    for tensor in layout.tensors:
        if direction.is_active(tensor.segment):
            k[tensor.span] = rounded_tensor(direction, tensor, epsilon)
    return k


def realised(k: NDArray[np.float64], layout: Layout, epsilon: float) -> NDArray[np.float64]:
    """Return z' = k * 2^-e / epsilon, the direction that is really taken. Shapes: (n,) -> (n,) float64."""
    z = np.zeros(layout.parameters)
    for tensor in layout.tensors:
        z[tensor.span] = k[tensor.span] * math.ldexp(1.0, -tensor.exponent) / epsilon
    return z


def squared_norms(direction: Direction, layout: Layout, epsilon: float) -> tuple[float, float]:
    """Return |epsilon (z' - z)|^2 and |epsilon z|^2.

    In eight lanes for each tensor, in grid units: see the package's conventions.

    Raises NotFinite or OutOfRange: the caller refuses the task.
    """
    error = norm = 0.0
    for tensor in layout.tensors:
        if not direction.is_active(tensor.segment):
            continue
        y = grid_units(direction, tensor, epsilon)
        difference = np.rint(y) - y
        unit = math.ldexp(1.0, -2 * tensor.exponent)
        error = error + _sum_in_lanes(difference * difference, tensor.offset) * unit
        norm = norm + _sum_in_lanes(y * y, tensor.offset) * unit
    return error, norm


def check(direction: Direction, layout: Layout, epsilon: float) -> None:
    """Accept a direction that stays in range and keeps |z' - z| <= 0.02 |z|. Zero everywhere is accepted.

    Raises NotFinite, OutOfRange, or BelowGrid with the epsilon or the exponents that would do: the caller
    refuses the task.
    """
    error, norm = squared_norms(direction, layout, epsilon)
    if error > MAX_SQUARED_ERROR * norm:
        refuse_below_grid(lambda larger: squared_norms(direction, layout, larger), epsilon)


def refuse_below_grid(squared_norms_at: Callable[[float], tuple[float, float]], epsilon: float) -> NoReturn:
    """Raise BelowGrid with what would do; `squared_norms_at` answers the two sums for another epsilon."""
    doublings = doublings_needed(squared_norms_at, epsilon)
    if doublings is None:
        message = "rounding changes the direction by over 2 % at every epsilon in range: flatten its guide"
        raise BelowGrid(message, None, None)
    enough = math.ldexp(epsilon, doublings)
    advice = f"use epsilon {enough!r}, or grid exponents higher by {doublings}"
    raise BelowGrid(f"rounding changes the direction by over 2 %: {advice}", enough, doublings)


def doublings_needed(squared_norms_at: Callable[[float], tuple[float, float]], epsilon: float) -> int | None:
    """Return the smallest d >= 0 for which epsilon * 2^d passes the check, or None when none does in range.

    Raising every exponent by d rounds exactly as epsilon * 2^d does, so the answer serves for both.
    """
    doublings = 0
    while True:
        try:
            error, norm = squared_norms_at(math.ldexp(epsilon, doublings))
        except (OutOfRange, OverflowError):
            return None
        if error <= MAX_SQUARED_ERROR * norm:
            return doublings
        doublings += 1


def check_epsilon(epsilon: float) -> None:
    """Accept a finite, positive epsilon; raise ZoError for any other: the caller refuses the task."""
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ZoError(f"epsilon is {epsilon}: use a finite positive one")


def expand(direction: Direction, count: int, per_prefix: int = 1) -> Sequence[Direction]:
    """Return `count` directions that differ in their seeds alone: seed, seed + 1, ... modulo 2^64.

    The first `per_prefix` of them share the prefix_seed, the next ones prefix_seed + per_prefix, and so on.
    """
    return [
        replace(
            direction,
            seed=(direction.seed + number) % 2**64,
            prefix_seed=(direction.prefix_seed + number - number % per_prefix) % 2**64,
        )
        for number in range(count)
    ]


def lanes(values: NDArray[np.float64], offset: int) -> NDArray[np.float64]:
    """Return the eight sums of values whose (offset + index) mod 8 is 0 to 7, each added in ascending order.

    Shapes: (count,) -> (8,) float64.
    """
    before = offset % LANES
    rows = -(-(before + len(values)) // LANES)
    padded = np.zeros((rows + 1) * LANES)  # the first row is the zeros that the sums start from
    padded[LANES + before : LANES + before + len(values)] = values
    # A cumulative sum adds strictly in order; NumPy's sum may add in pairs.
    sums: NDArray[np.float64] = np.cumsum(padded.reshape(rows + 1, LANES), axis=0)[-1]
    return sums


def _sum_in_lanes(values: NDArray[np.float64], offset: int) -> float:
    total = 0.0
    for lane in lanes(values, offset):
        total = total + float(lane)
    return total
