"""A round's step in the forms in which it is applied: a record that devices replay, or one guide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cloud_service import estimators
from cloud_service.directions import Float32, Float64, Guide, GuideTerm, Received, Record
from cloud_service.estimators import Estimate, Measured
from cloud_service.plan import RoundPlan
from device_runtime.zo import direction as zo
from device_runtime.zo.spsa import Update


def record_of(
    plan: RoundPlan, measured: Sequence[Measured], devices: Estimate, weight: float, rate: float
) -> Record:
    """The step -rate * ((1 - weight) * devices + weight * public) as a list that devices replay."""
    gain = -rate * (1.0 - weight)
    along = {name: gain * coefficient for name, coefficient in devices.guide_coefficients.items()}
    public = public_guide(plan)
    if public is not None and weight != 0.0:
        along[public.name] = along.get(public.name, 0.0) - rate * weight * plan.guides.norm
    guides = tuple(GuideTerm(name, coefficient) for name, coefficient in along.items() if coefficient != 0.0)
    return Record(
        epsilon=plan.settings.epsilon,
        scale_sha256=plan.settings.scale_sha256,
        update_seed=plan.update_seed,
        active_segments=plan.settings.active_segments,
        directions=tuple(item.direction for item in measured),
        coefficients=tuple(gain * coefficient for coefficient in devices.coefficients),
        guides=guides,
    )


def public_guide(plan: RoundPlan) -> Guide | None:
    """The guide that stands for the public gradient in an update: as the devices received it, the finest of
    those that they did; as it was sampled where no device was sent it.
    """
    return plan.guides.at(min(plan.levels(), default=0))


def update_of(record: Record, received: Received, scale: Float32 | None) -> Update:
    """A record with the vectors that it names, for the exact arithmetic: what every device replays."""
    segments = record.active_segments
    return Update(
        record.epsilon,
        record.update_seed,
        tuple(estimators.to_zo(item, received, segments, scale) for item in record.directions),
        record.coefficients,
        tuple(zo.Guide(received[term.guide_sha256], term.coefficient) for term in record.guides),
        segments,
    )


def update_by(step: Float64, plan: RoundPlan) -> Update:
    """Any step (n,) as an update of one guide, so that it is rounded stochastically like a record."""
    segments = plan.settings.active_segments
    return Update(
        plan.settings.epsilon, plan.update_seed, (), (), (zo.Guide(step.astype(np.float32), 1.0),), segments
    )
