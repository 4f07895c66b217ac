"""A round as two pure functions: `open_round` says what each client is asked, `apply` what comes of it.

    open_round(state, settings, cohort, guides, layout) -> RoundPlan
    apply(state, plan, reports, layout, scale)          -> (state, record or None, diagnostics)

Neither reads a clock, draws a random number or depends on the order of arrival: seeds are derived from the
job's seed, the round and the client id; sums run over sorted client ids, then steps, then direction numbers,
in float64.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cloud_service import aggregation, estimators, rectify
from cloud_service.estimators import Estimate, Measured
from cloud_service.plan import (
    ClientReport,
    ClientTask,
    CohortMember,
    Diagnostics,
    Float32,
    Float64,
    Guides,
    GuideTerm,
    Record,
    RoundPlan,
    RoundSettings,
    RoundState,
    Step,
)
from device_runtime.core.kernels import apply_update
from device_runtime.zo import direction as zo
from device_runtime.zo.layout import Layout
from device_runtime.zo.spsa import Update


def derive_seed(seed: int, round_number: int, purpose: str, client_id: str = "") -> int:
    """64 bits that depend on nothing but the arguments: the first 8 bytes of a SHA-256, little-endian."""
    text = f"{seed}\t{round_number}\t{purpose}\t{client_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def sample_cohort(client_ids: Sequence[str], size: int, seed: int, round_number: int) -> tuple[str, ...]:
    """`size` of the clients (all when there are fewer), drawn by seed whatever their order; sorted."""
    ranked = sorted(set(client_ids), key=lambda name: (derive_seed(seed, round_number, "cohort", name), name))
    return tuple(sorted(ranked[:size]))


def open_round(
    state: RoundState, settings: RoundSettings, cohort: Sequence[CohortMember], guides: Guides, layout: Layout
) -> RoundPlan:
    """The plan of round `state.version`: one task for each member, within the member's disclosure budget."""
    plan = RoundPlan(
        round=state.version,
        version=state.version,
        settings=settings,
        tasks=(),
        guides=guides,
        update_seed=derive_seed(settings.seed, state.version, "update"),
    )
    for member in sorted(cohort, key=lambda item: item.client_id):
        plan, _ = refill(plan, member, layout)
    return plan


def refill(plan: RoundPlan, member: CohortMember, layout: Layout) -> tuple[RoundPlan, ClientTask]:
    """The plan with one more client in it, say for one whose lease has expired; and that client's task.

    A client that is in the plan already keeps its task. Tasks of others never change.
    """
    known = plan.task(member.client_id)
    if known is not None:
        return plan, known
    settings = plan.settings
    name = "" if settings.directions == "shared" else member.client_id
    count = directions_within(member, settings, layout)
    steps = []
    for number in range(settings.local_steps if count else 0):
        seed = derive_seed(settings.seed, plan.round, f"directions {number}", name)
        steps.append(
            Step(
                batch_seed=derive_seed(settings.seed, plan.round, f"batch {number}", member.client_id),
                batch_examples=max(settings.batch_examples, member.min_batch_examples),
                directions=(estimators.direction(settings, plan.guides, layout, seed, count),),
                local_learning_rate=settings.local_learning_rate,
                update_seed=derive_seed(
                    settings.seed, plan.round, f"local update {number}", member.client_id
                ),
            )
        )
    task = ClientTask(member.client_id, tuple(steps))
    tasks = tuple(sorted((*plan.tasks, task), key=lambda item: item.client_id))
    return replace(plan, tasks=tasks), task


def directions_within(member: CohortMember, settings: RoundSettings, layout: Layout) -> int:
    """Directions of each step that a member's disclosure budget allows, at most what the settings ask for.

    Directions in the last segment alone (the head) count against the head's budget too.
    """
    allowed = member.max_scalars_per_round
    if set(settings.active_segments) <= {layout.segments[-1]}:
        allowed = min(allowed, member.max_head_scalars_per_round)
    return min(settings.directions_per_task, allowed // settings.local_steps)


def apply(
    state: RoundState, plan: RoundPlan, reports: Sequence[ClientReport], layout: Layout, scale: Float32 | None
) -> tuple[RoundState, Record | None, Diagnostics]:
    """The next version from the reports of its round.

    theta' = theta - rate * g, or with momentum m' = momentum * m + g and theta' = theta - rate * m', where g
    mixes the devices' estimate and the public gradient (see `rectify`). Without momentum the step is a
    record, which devices replay; with it the record is None (send a delta). Without a usable report the state
    stays as it is.

    Raises ValueError when the plan is about another version: a mistake of the caller.
    """
    if plan.version != state.version:
        raise ValueError(f"the plan is about version {plan.version}, the state is version {state.version}")
    found = aggregation.usable(plan, reports)
    bound = aggregation.robust_bound(found)
    kept, cut = aggregation.clipped(found, bound)
    measured = aggregation.measured(plan, kept)
    if not measured:
        return state, None, _diagnostics(plan, state.version, kept, cut, 0.0, 0.0, 0.0, 0)
    devices = estimators.estimate(measured, plan.settings, plan.guides, layout, scale)
    statistics, weight = _mix(state.statistics, plan, devices, scale)
    rate = learning_rate(plan.settings, plan.round)
    adapter = state.adapter.copy()
    if plan.settings.momentum == 0.0:
        momentum, record = None, _record(plan, measured, devices, weight, rate)
        update = _update_of(record, plan, scale)
    else:
        record = None
        momentum = plan.settings.momentum * _momentum(state) + _mixed(plan, devices, weight)
        update = _update_by(-rate * momentum, plan)
    clamped = apply_update(adapter, layout, update)
    after = RoundState(state.version + 1, adapter, momentum, statistics)
    step = _norm(adapter.astype(np.float64) - state.adapter)
    return (
        after,
        record,
        _diagnostics(plan, after.version, kept, cut, weight, _norm(devices.vector), step, clamped),
    )


def learning_rate(settings: RoundSettings, round_number: int) -> float:
    """The rate of a round: constant, or falling linearly towards 0 over the job's rounds."""
    if settings.learning_rate_decay == "none":
        return settings.learning_rate
    return settings.learning_rate * max(0.0, 1.0 - round_number / settings.rounds)


def _mix(
    statistics: Mapping[str, float] | None, plan: RoundPlan, devices: Estimate, scale: Float32 | None
) -> tuple[Mapping[str, float] | None, float]:
    """The new running means, and the weight of the public gradient in this round."""
    if plan.guides.gradient is None:
        return statistics, 0.0
    difference = devices.vector - plan.guides.norm * plan.guides.gradient.values.astype(np.float64)
    if scale is not None:
        difference = difference / scale
    distance = float(np.sum(difference * difference))
    fresh = rectify.update_statistics(statistics, devices.variance, distance)
    if plan.settings.guide_weight is not None:
        return fresh, plan.settings.guide_weight
    momentum = plan.settings.momentum
    return fresh, rectify.optimal_weight(fresh, (1.0 + momentum) / (1.0 - momentum))


def _record(
    plan: RoundPlan, measured: Sequence[Measured], devices: Estimate, weight: float, rate: float
) -> Record:
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


def _update_of(record: Record, plan: RoundPlan, scale: Float32 | None) -> Update:
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


def _update_by(step: Float64, plan: RoundPlan) -> Update:
    """Any step (n,) as an update of one guide, so that it is rounded stochastically like a record."""
    segments = plan.settings.active_segments
    return Update(
        plan.settings.epsilon, plan.update_seed, (), (), (zo.Guide(step.astype(np.float32), 1.0),), segments
    )


def _mixed(plan: RoundPlan, devices: Estimate, weight: float) -> Float64:
    mixed = (1.0 - weight) * devices.vector
    if plan.guides.gradient is not None and weight != 0.0:
        mixed = mixed + weight * plan.guides.norm * plan.guides.gradient.values.astype(np.float64)
    return mixed


def _momentum(state: RoundState) -> Float64:
    return np.zeros(state.adapter.size) if state.momentum is None else state.momentum


def _norm(vector: Float64) -> float:
    return math.sqrt(float(np.sum(vector * vector)))


def _diagnostics(
    plan: RoundPlan,
    version: int,
    kept: Sequence[ClientReport],
    cut: int,
    weight: float,
    estimate_norm: float,
    step_norm: float,
    clamped: int,
) -> Diagnostics:
    scalars = [abs(scalar) for report in kept for scalar in report.scalars]
    return Diagnostics(
        round=plan.round,
        version=version,
        reports=len(kept),
        scalars=len(scalars),
        examples=sum(report.examples for report in kept),
        mean_abs_scalar=sum(scalars) / len(scalars) if scalars else 0.0,
        clipped_scalars=cut,
        guide_weight=weight,
        estimate_norm=estimate_norm,
        step_norm=step_norm,
        clamped_parameters=clamped,
    )
