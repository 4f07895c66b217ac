"""Estimators: which directions a task names, and how the scalars that come back become a gradient.

All estimate S^2 grad f, the gradient in the metric of the scale s (S = diag(s); without a scale S = I), so
that a step along the estimate is one of preconditioned gradient descent. With z = a s (.) v + c u and
rho = z . grad f:

* isotropic: a = 1 and no guide, E[z z^T] = S^2, so rho z is unbiased as it is (MeZO, arXiv 2305.17333,
  calibrated and with a scale; DeComFL, arXiv 2405.15861, is the same with shared seeds).
* zgr (CooperLLM, arXiv 2601.12917; covariance of Guided Evolution Strategies, arXiv 1806.10230):
  E[z z^T] = a^2 S^2 + c^2 u u^T. The paper's own form is rho z, off by this covariance. Calibrated, noise and
  guide are told apart: as E[v] = 0, every rho of a batch holds the same c (u . grad f), which would only add
  noise to the other directions and whose mean measures the slope along u far better than they can. So

      noise = mean_j (rho_j - rho_without_j) (z_j - c u) / a^2,      slope = mean_j rho_j / c
      estimate = noise + (slope - u . S^-2 noise) / |S^-1 u|^2 u

  where rho_without_j is the mean of the batch's other scalars, independent of v_j. Both parts are unbiased
  for every fraction. The sign of the guide needs no draw: v and -v are equally likely. u is what the device
  received, so compressing it costs alignment and brings no bias; directions along guides of several levels
  of compression are estimated level by level and averaged by their weights.
* fedspzo (FedSPZO, arXiv 2502.10239): isotropic, but P2 = per_prefix neighbouring directions share their
  noise in the first block (segments before the boundary), which devices therefore run once for all of them.
  With z1_i of the first block and z2_ij of the second, sum_ij w rho_ij (z1_i + z2_ij) is both of the paper's
  estimates, mean_i(mean_j rho_ij) z1_i and mean_ij rho_ij z2_ij. With P2 = 1 it is isotropic, bit for bit.
* chainfed (ChainFed, arXiv 2604.06819): isotropic in the stage's segments, for the stage's loss (chain.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cloud_service.directions import Direction, Float32, Float64, Guide, GuideTerm, Received
from cloud_service.plan import RoundSettings
from device_runtime.core import kernels
from device_runtime.zo import direction as zo
from device_runtime.zo.layout import Layout


@dataclass(frozen=True)
class Measured:
    """One direction's scalar, averaged over the clients that measured it; the weights of a round sum to 1."""

    direction: Direction  # of count 1
    weight: float
    rho: float
    batch: int = 0  # directions that were measured on the same batch have the same number


@dataclass(frozen=True)
class Estimate:
    """S^2 grad f as the devices see it: sum_j coefficients_j z'_j + sum_g guide_coefficients_g * u_g."""

    coefficients: tuple[float, ...]  # one per measured direction, in order
    guide_coefficients: Mapping[bytes, float]  # by the guide's name
    vector: Float64  # the same, summed: shape (n,)
    variance: float  # of |S^-1 vector|^2 about its mean, estimated from the spread of the scalars


def direction(
    settings: RoundSettings, guide: Guide | None, layout: Layout, seed: int, count: int
) -> Direction:
    """`count` directions of the settings' estimator, for consecutive seeds.

    The calibrated zgr splits the energy of z as the paper does, fraction : 1 - fraction, given that the guide
    is as long as s, which it is made to be. Its paper form is z = sqrt(fraction / n) v +
    sqrt(1 - fraction) u / |u|. Without a guide (public data say nothing) both are isotropic.
    """
    if settings.estimator == "fedspzo":
        return Direction(seed, count, 1.0, (), settings.boundary, seed, settings.per_prefix)
    fraction = settings.isotropic_fraction
    if settings.estimator != "zgr" or guide is None:
        return Direction(seed, count, 1.0, exact=settings.exact_head)
    if settings.paper_form:
        active = sum(
            layout.segment_slice(k).stop - layout.segment_slice(k).start for k in settings.active_segments
        )
        coefficient = math.sqrt(1.0 - fraction) / guide.length
        return Direction(seed, count, math.sqrt(fraction / active), (GuideTerm(guide.name, coefficient),))
    if fraction == 0.0:
        return Direction(seed, count, 0.0, (GuideTerm(guide.name, 1.0),))
    coefficient = math.sqrt((1.0 - fraction) / fraction)
    return Direction(seed, count, 1.0, (GuideTerm(guide.name, coefficient),))


def realised(
    named: Direction, settings: RoundSettings, received: Received, layout: Layout, scale: Float32 | None
) -> Float64:
    """z', the direction that a device really takes, rounded to the grid: the active segments' entries."""
    exact = to_zo(named, received, settings.active_segments, scale)
    # An adapter of zeros that is perturbed holds k * 2^-e, exactly: |k| < 2^23 fits a float32.
    perturbed = np.zeros(layout.parameters, np.float32)
    kernels.perturb(perturbed, layout, exact, settings.epsilon, +1)
    parts = [perturbed[layout.segment_slice(segment)] for segment in settings.active_segments]
    z: Float64 = np.concatenate(parts).astype(np.float64) / settings.epsilon
    return z


def active_parameters(settings: RoundSettings, layout: Layout) -> NDArray[np.int64]:
    """The numbers of the active segments' parameters, ascending."""
    everything = np.arange(layout.parameters)
    return np.concatenate([everything[layout.segment_slice(k)] for k in settings.active_segments])


def to_zo(
    named: Direction, received: Received, active_segments: tuple[int, ...], scale: Float32 | None
) -> zo.Direction:
    """A named direction with its guide's values and the scale in place, for the exact arithmetic."""
    return zo.Direction(
        named.seed,
        named.isotropic_scale,
        scale,
        tuple(zo.Guide(received[term.guide_sha256], term.coefficient) for term in named.guides),
        active_segments,
        named.boundary,
        named.prefix_seed,
    )


def estimate(
    measured: Sequence[Measured],
    settings: RoundSettings,
    received: Received,
    layout: Layout,
    scale: Float32 | None,
) -> Estimate:
    """The estimate from a round's scalars; sums in the order of `measured`, in float64.

    Directions along different guides are estimated by themselves: each estimate is unbiased, and so is their
    mean, weighted as the directions are.
    """
    names = list(dict.fromkeys(_guide_name(item.direction) for item in measured))
    if len(names) <= 1:
        return _along_one(measured, settings, received, layout, scale)
    coefficients = [0.0] * len(measured)
    along: dict[bytes, float] = {}
    vector, variance = np.zeros(layout.parameters), 0.0
    for name in names:
        places = [place for place, item in enumerate(measured) if _guide_name(item.direction) == name]
        weight = sum(measured[place].weight for place in places)
        own = [replace(measured[place], weight=measured[place].weight / weight) for place in places]
        part = _along_one(own, settings, received, layout, scale)
        for place, coefficient in zip(places, part.coefficients, strict=True):
            coefficients[place] = weight * coefficient
        along |= {guide: weight * coefficient for guide, coefficient in part.guide_coefficients.items()}
        vector += weight * part.vector
        variance += weight * weight * part.variance
    return Estimate(tuple(coefficients), along, vector, variance)


def _along_one(
    measured: Sequence[Measured],
    settings: RoundSettings,
    received: Received,
    layout: Layout,
    scale: Float32 | None,
) -> Estimate:
    """The estimate from directions along one guide, or along none."""
    active = active_parameters(settings, layout)
    inverse = np.ones(active.size) if scale is None else 1.0 / scale[active].astype(np.float64) ** 2
    name = _guide_name(measured[0].direction) if measured else b""
    guide = received[name][active].astype(np.float64) if name else None
    if guide is not None and not np.any(guide):
        guide = None  # nothing lies along it
    length = 0.0 if guide is None else float(np.sum(inverse * guide * guide))  # |S^-1 u|^2
    sums = _batch_sums(measured)
    noise, coefficients, slope, shift = np.zeros(active.size), [], 0.0, 0.0
    spread, slope_variance, weights = 0.0, 0.0, 0.0
    for item in measured:
        a, c = item.direction.isotropic_scale, _guide_coefficient(item.direction)
        z = realised(item.direction, settings, received, layout, scale)
        if guide is None or c == 0.0 or settings.paper_form:
            fresh, gain = item.rho, 1.0 if settings.paper_form else 1.0 / (a * a)
        else:
            z = z - c * guide
            fresh, gain = item.rho - _without(item, sums[item.batch]), 0.0 if a == 0.0 else 1.0 / (a * a)
            slope += item.weight * item.rho / c
            slope_variance += (item.weight * fresh / c) ** 2
        coefficient = item.weight * fresh * gain
        coefficients.append(coefficient)
        shift -= coefficient * c
        noise += coefficient * z
        on_guide = 0.0 if guide is None or slope == 0.0 else float(np.sum(inverse * guide * z))
        spread += coefficient**2 * (
            float(np.sum(inverse * z * z)) - (on_guide * on_guide / length if on_guide else 0.0)
        )
        weights += item.weight**2
    if guide is None or slope == 0.0:
        return _whole(coefficients, {}, noise, active, layout, _variance(spread, weights, noise, inverse))
    across = float(np.sum(inverse * guide * noise))
    beside = noise - across / length * guide
    variance = _variance(spread, weights, beside, inverse) + slope_variance / length
    along_guide = slope / length
    vector = beside + along_guide * guide
    along = {name: shift + along_guide - across / length}
    return _whole(coefficients, along, vector, active, layout, variance)


def _batch_sums(measured: Sequence[Measured]) -> dict[int, tuple[float, float]]:
    """For each batch, the sum of its directions' weights and that of weight * rho."""
    sums: dict[int, tuple[float, float]] = {}
    for item in measured:
        weight, total = sums.get(item.batch, (0.0, 0.0))
        sums[item.batch] = (weight + item.weight, total + item.weight * item.rho)
    return sums


def _without(item: Measured, batch: tuple[float, float]) -> float:
    """The weighted mean of the batch's other scalars, 0 where there is no other."""
    weight = batch[0] - item.weight
    return (batch[1] - item.weight * item.rho) / weight if weight > 1e-9 * batch[0] else 0.0


def _guide_name(named: Direction) -> bytes:
    return named.guides[0].guide_sha256 if named.guides else b""


def _guide_coefficient(named: Direction) -> float:
    return named.guides[0].coefficient if named.guides else 0.0


def _variance(spread: float, weights: float, mean: Float64, inverse: Float64) -> float:
    """Of a weighted mean, from sum w_j^2 |y_j|^2: that is sum w^2 |E mean|^2 more than the variance."""
    if weights >= 1.0:
        return spread
    return max(0.0, spread - weights * float(np.sum(inverse * mean * mean))) / (1.0 - weights)


def _whole(
    coefficients: Sequence[float],
    guide_coefficients: Mapping[bytes, float],
    vector: Float64,
    active: NDArray[np.int64],
    layout: Layout,
    variance: float,
) -> Estimate:
    whole = np.zeros(layout.parameters)
    whole[active] = vector
    return Estimate(tuple(coefficients), guide_coefficients, whole, variance)
