"""A round's step in the forms in which it is applied: a record that devices replay, or one guide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cloud_service import estimators
from cloud_service.directions import Float32, Float64, GuideTerm, Record
from cloud_service.estimators import Estimate, Measured
from cloud_service.plan import RoundPlan
from device_runtime.zo import direction as zo
from device_runtime.zo.spsa import Update


def record_of(
    plan: RoundPlan, measured: Sequence[Measured], devices: Estimate, weight: float, rate: float
) -> Record:
    """The step -rate * ((1 - weight) * devices + weight * public) as a list that devices replay."""
    gain = -rate * (1.0 - weight)
    guides: tuple[GuideTerm, ...] = ()
    if plan.guides.gradient is not None:
        coefficient = gain * devices.guide_coefficient - rate * weight * plan.guides.norm
        if coefficient != 0.0:
            guides = (GuideTerm(plan.guides.gradient.sha256, coefficient),)
    return Record(
        epsilon=plan.settings.epsilon,
        scale_sha256=plan.settings.scale_sha256,
        update_seed=plan.update_seed,
        active_segments=plan.settings.active_segments,
        directions=tuple(item.direction for item in measured),
        coefficients=tuple(gain * coefficient for coefficient in devices.coefficients),
        guides=guides,
    )


def update_of(record: Record, plan: RoundPlan, scale: Float32 | None) -> Update:
    """A record with the vectors that it names, for the exact arithmetic: what every device replays."""
    guide = plan.guides.gradient
    segments = record.active_segments
    return Update(
        record.epsilon,
        record.update_seed,
        tuple(estimators.to_zo(item, plan.guides, segments, scale) for item in record.directions),
        record.coefficients,
        tuple(zo.Guide(guide.values, term.coefficient) for term in record.guides if guide is not None),
        segments,
    )


def update_by(step: Float64, plan: RoundPlan) -> Update:
    """Any step (n,) as an update of one guide, so that it is rounded stochastically like a record."""
    segments = plan.settings.active_segments
    return Update(
        plan.settings.epsilon, plan.update_seed, (), (), (zo.Guide(step.astype(np.float32), 1.0),), segments
    )
