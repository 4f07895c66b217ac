"""A round as two pure functions: `open_round` says what each client is asked, `apply` what comes of it.

    open_round(state, settings, cohort, guides, layout) -> RoundPlan
    apply(state, plan, reports, received, layout, scale) -> (state, record or None, diagnostics)

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

from cloud_service import aggregation, chain, estimators, rectify, step
from cloud_service.diagnostics import Diagnostics, counted
from cloud_service.directions import Float32, Float64, Guides, Received, Record
from cloud_service.estimators import Estimate
from cloud_service.plan import (
    ClientReport,
    ClientTask,
    CohortMember,
    RoundPlan,
    RoundSettings,
    RoundState,
    Step,
)
from device_runtime.core.kernels import apply_update
from device_runtime.zo.layout import Layout


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
    """The plan of round `state.version`: one task for each member, within the member's disclosure budget.

    A chain whose start is not known yet begins with a round of segment scores.
    """
    scores = chain.wanted_scores(settings.chain, state.version)
    plan = RoundPlan(
        round=state.version,
        version=state.version,
        settings=settings,
        tasks=(),
        guides=Guides() if scores else guides,
        update_seed=derive_seed(settings.seed, state.version, "update"),
        scores=scores,
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
    steps = _scoring(plan, member) if plan.scores else _measuring(plan, member, layout)
    task = ClientTask(member.client_id, steps, member.guide_level)
    tasks = tuple(sorted((*plan.tasks, task), key=lambda item: item.client_id))
    return replace(plan, tasks=tasks), task


def _scoring(plan: RoundPlan, member: CohortMember) -> tuple[Step, ...]:
    seed = derive_seed(plan.settings.seed, plan.round, "scores", member.client_id)
    examples = max(plan.settings.batch_examples, member.min_batch_examples, chain.SCORED_EXAMPLES)
    return (Step(seed, examples, ()),)


def _measuring(plan: RoundPlan, member: CohortMember, layout: Layout) -> tuple[Step, ...]:
    settings = plan.settings
    name = "" if settings.directions == "shared" else member.client_id
    count = directions_within(member, settings, layout)
    guide = plan.guides.at(member.guide_level)
    steps = []
    for number in range(settings.local_steps if count else 0):
        seed = derive_seed(settings.seed, plan.round, f"directions {number}", name)
        steps.append(
            Step(
                batch_seed=derive_seed(settings.seed, plan.round, f"batch {number}", member.client_id),
                batch_examples=max(settings.batch_examples, member.min_batch_examples),
                directions=(estimators.direction(settings, guide, layout, seed, count),),
                local_learning_rate=settings.local_learning_rate,
                update_seed=derive_seed(
                    settings.seed, plan.round, f"local update {number}", member.client_id
                ),
            )
        )
    return tuple(steps)


def directions_within(member: CohortMember, settings: RoundSettings, layout: Layout) -> int:
    """Directions of each step that a member's disclosure budget allows, at most what the settings ask for.

    Directions in the last segment alone (the head), or above all there, count against the head's budget too.
    """
    allowed = member.max_scalars_per_round
    if settings.counts_as_head or set(settings.active_segments) <= {layout.segments[-1]}:
        allowed = min(allowed, member.max_head_scalars_per_round)
    return min(settings.directions_per_task, allowed // settings.local_steps)


def apply(
    state: RoundState,
    plan: RoundPlan,
    reports: Sequence[ClientReport],
    received: Received,
    layout: Layout,
    scale: Float32 | None,
) -> tuple[RoundState, Record | None, Diagnostics]:
    """The next version from the reports of its round. `received` has every guide that the plan's tasks name
    and the one of `step.public_guide`.

    theta' = theta - rate * g, or with momentum m' = momentum * m + g and theta' = theta - rate * m', where g
    mixes the devices' estimate and the public gradient (see `rectify`). Without momentum the step is a
    record, which devices replay; with it the record is None (send a delta). Without a usable report the state
    stays as it is. A round of segment scores leaves the adapter as it is, as an empty record.

    Raises ValueError when the plan is about another version: a mistake of the caller.
    """
    if plan.version != state.version:
        raise ValueError(f"the plan is about version {plan.version}, the state is version {state.version}")
    found = aggregation.usable(plan, reports)
    bound = aggregation.robust_bound(found)
    kept, cut = aggregation.clipped(found, bound)
    if not found:
        return state, None, counted(plan, state.version, found)
    if plan.scores:
        return _start(state, plan, found)
    measured = aggregation.measured(plan, kept)
    devices = estimators.estimate(measured, plan.settings, received, layout, scale)
    public = _public(plan, received, layout)
    statistics, weight = _mix(state.statistics, plan, devices, public, scale)
    rate = learning_rate(plan.settings, plan.round)
    adapter = state.adapter.copy()
    if plan.settings.momentum == 0.0:
        momentum, record = None, step.record_of(plan, measured, devices, weight, rate)
        update = step.update_of(record, received, scale)
    else:
        record = None
        momentum = plan.settings.momentum * _momentum(state) + _mixed(devices, public, weight)
        update = step.update_by(-rate * momentum, plan)
    clamped = apply_update(adapter, layout, update)
    moved = RoundState(state.version + 1, adapter, momentum, statistics)
    after, agreement, ended = _along_chain(state, moved, plan, devices, scale)
    diagnostics = replace(
        counted(plan, after.version, kept),
        clipped_scalars=cut,
        guide_weight=weight,
        estimate_norm=_norm(devices.vector),
        step_norm=_norm(adapter.astype(np.float64) - state.adapter),
        clamped_parameters=clamped,
        agreement=agreement,
        stage_ended=ended,
    )
    return after, record, diagnostics


def _start(
    state: RoundState, plan: RoundPlan, found: Sequence[ClientReport]
) -> tuple[RoundState, Record, Diagnostics]:
    """The chain's start from a round of segment scores; `found` are its usable reports, in order."""
    settings = plan.settings.chain
    assert settings is not None  # or the plan would ask for no scores
    scores = chain.mean_scores([report.scores for report in found])
    after = replace(state, version=state.version + 1, chain=chain.begin(settings, plan.round + 1, scores))
    empty = Record(plan.settings.epsilon, b"", plan.update_seed, plan.settings.active_segments, (), ())
    return after, empty, replace(counted(plan, after.version, found), segment_scores=scores)


def _along_chain(
    before: RoundState, after: RoundState, plan: RoundPlan, devices: Estimate, scale: Float32 | None
) -> tuple[RoundState, float, str]:
    """The state with ChainFed's schedule moved on by a round, its agreement, and why the stage ended, or "".

    A new stage starts without momentum and running means: they are of another loss and other segments.
    """
    settings = plan.settings.chain
    if settings is None:
        return after, 0.0, ""
    now = before.chain or chain.begin(settings, plan.round)
    product = 0.0
    if before.estimate is not None:
        both = devices.vector * before.estimate
        product = float(np.sum(both if scale is None else both / scale.astype(np.float64) ** 2))
    then, ended = chain.after_round(settings, now, plan.round, product)
    if ended:
        after = replace(after, momentum=None, statistics=None)
    elif not chain.stage_of(settings, then).is_last:
        after = replace(after, estimate=devices.vector)
    return replace(after, chain=then), now.agreement + product, ended


def learning_rate(settings: RoundSettings, round_number: int) -> float:
    """The rate of a round: constant, or falling linearly towards 0 over the job's rounds.

    In a chain it falls over each stage's share of them: what is frozen next should have settled, and what
    comes next starts anew.
    """
    if settings.learning_rate_decay == "none":
        return settings.learning_rate
    return settings.learning_rate * max(0.0, 1.0 - (round_number - settings.first_round) / settings.rounds)


def _mix(
    statistics: Mapping[str, float] | None,
    plan: RoundPlan,
    devices: Estimate,
    public: Float64 | None,
    scale: Float32 | None,
) -> tuple[Mapping[str, float] | None, float]:
    """The new running means, and the weight of the public gradient in this round."""
    if public is None:
        return statistics, 0.0
    difference = devices.vector - public
    if scale is not None:
        difference = difference / scale
    distance = float(np.sum(difference * difference))
    fresh = rectify.update_statistics(statistics, devices.variance, distance)
    if plan.settings.guide_weight is not None:
        return fresh, plan.settings.guide_weight
    momentum = plan.settings.momentum
    return fresh, rectify.optimal_weight(fresh, (1.0 + momentum) / (1.0 - momentum))


def _mixed(devices: Estimate, public: Float64 | None, weight: float) -> Float64:
    mixed = (1.0 - weight) * devices.vector
    if public is not None and weight != 0.0:
        mixed = mixed + weight * public
    return mixed


def _public(plan: RoundPlan, received: Received, layout: Layout) -> Float64 | None:
    """The public gradient (n,), S^2 times it, in the segments that the round trains; None where there is
    none.
    """
    guide = step.public_guide(plan)
    if guide is None:
        return None
    public = np.zeros(layout.parameters)
    for segment in plan.settings.active_segments:
        span = layout.segment_slice(segment)
        public[span] = plan.guides.norm * received[guide.name][span].astype(np.float64)
    return public


def _momentum(state: RoundState) -> Float64:
    return np.zeros(state.adapter.size) if state.momentum is None else state.momentum


def _norm(vector: Float64) -> float:
    return math.sqrt(float(np.sum(vector * vector)))
