"""Estimators: which directions a task names, and how the scalars that come back become a gradient.

All estimate S^2 grad f, the gradient in the metric of the scale s (S = diag(s); without a scale S = I), so
that a step along the estimate is one of preconditioned gradient descent. With z = a s (.) v + c u, rho = z .
grad f:

* isotropic: a = 1 and no guide, E[z z^T] = S^2, so rho z is unbiased as it is (MeZO, arXiv 2305.17333,
  calibrated and with a scale; DeComFL, arXiv 2405.15861, is the same with shared seeds).
* zgr (CooperLLM, arXiv 2601.12917; covariance of Guided Evolution Strategies, arXiv 1806.10230):
  Sigma = E[z z^T] = a^2 S^2 + c^2 u u^T, calibrated by S^2 Sigma^-1 (Sherman-Morrison):

      S^2 Sigma^-1 z = (z - kappa (u . S^-2 z) u) / a^2,  kappa = r / (1 + r |S^-1 u|^2),  r = c^2 / a^2

  so E[rho S^2 Sigma^-1 z] = S^2 grad f for every fraction, where the paper's own form rho z is off by Sigma.
  The sign of the guide needs no draw: v and -v are equally likely, and rho z is the same for z and -z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_service.plan import Direction, Float32, Float64, Guides, GuideTerm, RoundSettings
from device_runtime.zo import direction as zo
from device_runtime.zo.layout import Layout


@dataclass(frozen=True)
class Measured:
    """One direction's scalar, averaged over the clients that measured it; the weights of a round sum to 1."""

    direction: Direction  # of count 1
    weight: float
    rho: float


@dataclass(frozen=True)
class Estimate:
    """S^2 grad f as the devices see it: sum_j coefficients_j z'_j + guide_coefficient * u."""

    coefficients: tuple[float, ...]  # one per measured direction, in order
    guide_coefficient: float
    vector: Float64  # the same, summed: shape (n,)
    variance: float  # of |S^-1 vector|^2 about its mean, estimated from the spread of the scalars


def direction(settings: RoundSettings, guides: Guides, layout: Layout, seed: int, count: int) -> Direction:
    """`count` directions of the settings' estimator, for consecutive seeds.

    The calibrated zgr splits the energy of z as the paper does, fraction : 1 - fraction, given that the guide
    is as long as s (`guides.values` are). Its paper form is z = sqrt(fraction / n) v + sqrt(1 - fraction) u /
    |u|. Without a guide (public data say nothing) both are isotropic.
    """
    guide, fraction = guides.gradient, settings.isotropic_fraction
    if settings.estimator == "isotropic" or guide is None:
        return Direction(seed, count, 1.0)
    if settings.paper_form:
        active = sum(
            layout.segment_slice(k).stop - layout.segment_slice(k).start for k in settings.active_segments
        )
        length = math.sqrt(float(np.sum(guide.values.astype(np.float64) ** 2)))
        coefficient = math.sqrt(1.0 - fraction) / length
        return Direction(seed, count, math.sqrt(fraction / active), (GuideTerm(guide.sha256, coefficient),))
    if fraction == 0.0:
        return Direction(seed, count, 0.0, (GuideTerm(guide.sha256, 1.0),))
    coefficient = math.sqrt((1.0 - fraction) / fraction)
    return Direction(seed, count, 1.0, (GuideTerm(guide.sha256, coefficient),))


def realised(
    named: Direction, settings: RoundSettings, guides: Guides, layout: Layout, scale: Float32 | None
) -> Float64:
    """z', the direction that a device really takes, rounded to the grid: the active segments' entries."""
    exact = to_zo(named, guides, settings.active_segments, scale)
    parts = [
        zo.rounded_tensor(exact, tensor, settings.epsilon) * math.ldexp(1.0, -tensor.exponent)
        for segment in settings.active_segments
        for tensor in layout.segment_tensors(segment)
    ]
    z: Float64 = np.concatenate(parts) / settings.epsilon
    return z


def active_parameters(settings: RoundSettings, layout: Layout) -> NDArray[np.int64]:
    """The numbers of the active segments' parameters, ascending."""
    everything = np.arange(layout.parameters)
    return np.concatenate([everything[layout.segment_slice(k)] for k in settings.active_segments])


def to_zo(
    named: Direction, guides: Guides, active_segments: tuple[int, ...], scale: Float32 | None
) -> zo.Direction:
    """A named direction with its guide's values and the scale in place, for the exact arithmetic."""
    terms = []
    for term in named.guides:
        assert guides.gradient is not None  # the only guide that `direction` names
        terms.append(zo.Guide(guides.gradient.values, term.coefficient))
    return zo.Direction(named.seed, named.isotropic_scale, scale, tuple(terms), active_segments)


def estimate(
    measured: Sequence[Measured],
    settings: RoundSettings,
    guides: Guides,
    layout: Layout,
    scale: Float32 | None,
) -> Estimate:
    """The estimate from a round's scalars; sums in the order of `measured`, in float64."""
    active = active_parameters(settings, layout)
    inverse = np.ones(active.size) if scale is None else 1.0 / scale[active].astype(np.float64) ** 2
    guide = None if guides.gradient is None else guides.gradient.values[active].astype(np.float64)
    guide_length = 0.0 if guide is None else float(np.sum(inverse * guide * guide))  # |S^-1 u|^2
    vector = np.zeros(active.size)
    coefficients, guide_sum, spread, weights = [], 0.0, 0.0, 0.0
    for item in measured:
        z = realised(item.direction, settings, guides, layout, scale)
        gain, kappa = _calibration(item.direction, settings, guide_length)
        along = 0.0 if guide is None or kappa == 0.0 else float(np.sum(inverse * guide * z))
        size = float(np.sum(inverse * z * z)) - (2.0 * kappa - kappa * kappa * guide_length) * along * along
        coefficient = item.weight * item.rho * gain
        coefficients.append(coefficient)
        guide_sum = guide_sum - coefficient * kappa * along
        spread += coefficient * coefficient * size
        weights += item.weight * item.weight
        vector += coefficient * z
    if guide is not None and guide_sum != 0.0:
        vector += guide_sum * guide
    mean = float(np.sum(inverse * vector * vector))
    # sum w^2 |y_j|^2 is E|mean|^2 (sum w^2) plus the variance; y_j = rho_j S^2 Sigma^-1 z_j.
    variance = max(0.0, spread - weights * mean) / (1.0 - weights) if weights < 1.0 else spread
    whole = np.zeros(layout.parameters)
    whole[active] = vector
    return Estimate(tuple(coefficients), guide_sum, whole, variance)


def _calibration(named: Direction, settings: RoundSettings, guide_length: float) -> tuple[float, float]:
    """(gain, kappa): the estimate of one direction is rho * gain * (z - kappa (u . S^-2 z) u)."""
    if settings.paper_form and settings.estimator == "zgr":
        return 1.0, 0.0
    c = named.guides[0].coefficient if named.guides else 0.0
    a = named.isotropic_scale
    if a == 0.0:
        # The guide alone: the projection on u, the only thing that was measured.
        return 1.0 / (c * c * guide_length), 0.0
    ratio = (c / a) ** 2
    return 1.0 / (a * a), ratio / (1.0 + ratio * guide_length)
