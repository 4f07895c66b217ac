"""Rounds as pure functions: determinism, order, budgets, replay, momentum, exact byte forms."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import numpy as np
import pytest

from cloud_service import aggregation, estimators, messages, rounds
from cloud_service.directions import Float32, Guides, Received, Record
from cloud_service.plan import ClientReport, CohortMember, RoundPlan, RoundSettings, RoundState
from device_runtime.zo import direction as zo
from device_runtime.zo.grid import round_to_grid
from device_runtime.zo.layout import Layout
from device_runtime.zo.spsa import Update
from device_runtime.zo.version import adapter_sha256, apply_records, decode_delta, encode_delta

LAYOUT = Layout.build([("lora", 0, (4, 5), 20), ("bias", 1, (3,), 20), ("weight", 1, (3, 6), 19)])
N = LAYOUT.parameters
RNG = np.random.default_rng(11)
SCALE: Float32 = RNG.uniform(0.5, 3.0, N).astype(np.float32)
TARGET = RNG.normal(size=N)
MEMBERS = [CohortMember(f"client-{number}", 80) for number in range(5)]


def adapter() -> Float32:
    parts = [round_to_grid(0.1 * RNG.normal(size=t.count), t.exponent) for t in LAYOUT.tensors]
    return np.concatenate(parts)


def settings(**changes: object) -> RoundSettings:
    values: dict[str, object] = {
        "estimator": "isotropic",
        "directions": "per_device",
        "directions_per_task": 6,
        "batch_examples": 8,
        "epsilon": 1e-2,
        "learning_rate": 0.05,
        "rounds": 40,
        "active_segments": (0, 1),
        "seed": 3,
        "scale_sha256": b"s" * 32,
    }
    return RoundSettings(**{**values, **changes})  # type: ignore[arg-type]


NONE: Received = {}


def public_guides(at: Float32) -> tuple[Guides, Received]:
    gradient = SCALE.astype(np.float64) ** 2 * (at - TARGET - 0.3)
    factor = float(np.linalg.norm(SCALE) / np.linalg.norm(gradient))
    values = (gradient * factor).astype(np.float32)
    guides = Guides(
        hashlib.sha256(values.tobytes()).digest(), (0, 1), float(np.linalg.norm(SCALE)), 1.0 / factor
    )
    guide = guides.at(0)
    assert guide is not None
    return guides, {guide.name: values}


def answers(plan: RoundPlan, state: RoundState, received: Received = NONE) -> list[ClientReport]:
    """Every device's loss is |theta - target|^2 / 2: rho is z' . (theta - target)."""
    reports = []
    for number, task in enumerate(plan.tasks):
        scalars = []
        for named in aggregation.expand(task):
            z = estimators.realised(named, plan.settings, received, LAYOUT, SCALE)
            active = estimators.active_parameters(plan.settings, LAYOUT)
            scalars.append(float(np.float32(z @ (state.adapter - TARGET)[active])))
        reports.append(ClientReport(task.client_id, tuple(scalars), 8 + number))
    return reports


def device_replay(before: Float32, record: Record, known: Received = NONE) -> Float32:
    """A device's own replay, written from the wire form alone."""
    directions = tuple(
        zo.Direction(
            item.seed,
            item.isotropic_scale,
            SCALE if record.scale_sha256 else None,
            tuple(zo.Guide(known[term.guide_sha256], term.coefficient) for term in item.guides),
            record.active_segments,
        )
        for item in record.directions
    )
    terms = tuple(zo.Guide(known[term.guide_sha256], term.coefficient) for term in record.guides)
    update = Update(
        record.epsilon, record.update_seed, directions, record.coefficients, terms, record.active_segments
    )
    return apply_records(before, LAYOUT, [update])


CASES = [
    settings(),
    settings(directions="shared"),
    settings(estimator="zgr", directions="shared"),
    settings(estimator="zgr", paper_form=True),
    settings(estimator="zgr", guide_weight=0.25, active_segments=(1,)),
    settings(local_steps=2, local_learning_rate=0.01),
]


@pytest.mark.parametrize("chosen", CASES)
def test_a_record_replayed_by_a_device_gives_the_clouds_bits(chosen: RoundSettings) -> None:
    state = RoundState(0, adapter())
    for _ in range(3):
        guides, received = public_guides(state.adapter)
        plan = rounds.open_round(state, chosen, MEMBERS, guides, LAYOUT)
        reports = answers(plan, state, received)
        after, record, diagnostics = rounds.apply(state, plan, reports, received, LAYOUT, SCALE)
        assert record is not None
        replayed = device_replay(state.adapter, record, received)
        assert adapter_sha256(replayed) == adapter_sha256(after.adapter)
        assert diagnostics.reports == 5
        assert diagnostics.step_norm > 0
        inactive = [k for k in (0, 1) if k not in chosen.active_segments]
        for segment in inactive:
            span = LAYOUT.segment_slice(segment)
            assert np.array_equal(after.adapter[span], state.adapter[span])
        state = after


def test_momentum_publishes_a_delta_that_gives_the_same_bits() -> None:
    state = RoundState(0, adapter())
    chosen = settings(momentum=0.9, learning_rate=0.01)
    for _ in range(3):
        plan = rounds.open_round(state, chosen, MEMBERS, Guides(), LAYOUT)
        after, record, _ = rounds.apply(state, plan, answers(plan, state), NONE, LAYOUT, SCALE)
        assert record is None
        assert after.momentum is not None
        delta = encode_delta(state.adapter, after.adapter, LAYOUT)
        assert np.array_equal(decode_delta(delta, state.adapter, LAYOUT), after.adapter)
        state = after


@pytest.mark.parametrize("chosen", [*CASES, settings(momentum=0.9, estimator="zgr")])
def test_the_order_of_arrival_does_not_matter(chosen: RoundSettings) -> None:
    state = RoundState(0, adapter())
    guides, received = public_guides(state.adapter)
    plan = rounds.open_round(state, chosen, MEMBERS, guides, LAYOUT)
    assert rounds.open_round(state, chosen, MEMBERS[::-1], guides, LAYOUT).to_bytes() == plan.to_bytes()
    reports = answers(plan, state, received)
    first = rounds.apply(state, plan, reports, received, LAYOUT, SCALE)
    random.Random(4).shuffle(reports)
    again = rounds.apply(state, RoundPlan.from_bytes(plan.to_bytes()), reports, received, LAYOUT, SCALE)
    assert again[0].to_bytes() == first[0].to_bytes()
    assert again[1:] == first[1:]


def test_the_loss_falls_and_the_rectified_mixing_uses_the_public_gradient() -> None:
    for weight in (0.0, None):
        state = RoundState(0, adapter())
        chosen = settings(guide_weight=weight, learning_rate=0.03, momentum=0.5)
        first = float(np.sum((state.adapter - TARGET) ** 2))
        for _ in range(40):
            guides, received = public_guides(state.adapter)
            plan = rounds.open_round(state, chosen, MEMBERS, guides, LAYOUT)
            reports = answers(plan, state, received)
            state, _, diagnostics = rounds.apply(state, plan, reports, received, LAYOUT, SCALE)
        assert float(np.sum((state.adapter - TARGET) ** 2)) < 0.1 * first
        assert (diagnostics.guide_weight > 0.0) == (weight is None)


def test_state_and_plan_survive_their_bytes() -> None:
    state = RoundState(4, adapter(), RNG.normal(size=N), {"count": 2.0, "variance": 0.1})
    again = RoundState.from_bytes(state.to_bytes())
    assert again.to_bytes() == state.to_bytes()
    assert again.adapter.dtype == np.float32
    assert np.array_equal(again.momentum, state.momentum)  # type: ignore[arg-type]
    plan = rounds.open_round(
        state, settings(estimator="zgr", guide_weight=0.1), MEMBERS, public_guides(state.adapter)[0], LAYOUT
    )
    copy = RoundPlan.from_bytes(plan.to_bytes())
    assert copy.to_bytes() == plan.to_bytes()
    assert copy.tasks == plan.tasks
    assert copy.settings == plan.settings
    for cut in (3, 40, len(plan.to_bytes()) - 1):
        with pytest.raises(ValueError, match="truncated"):
            RoundPlan.from_bytes(plan.to_bytes()[:cut])


def test_a_task_stays_within_the_clients_disclosure_budget() -> None:
    member = CohortMember(
        "small", 80, max_scalars_per_round=5, max_head_scalars_per_round=3, min_batch_examples=20
    )
    state = RoundState(0, adapter())
    for active, allowed in (((0, 1), 5), ((1,), 3)):
        plan = rounds.open_round(state, settings(active_segments=active), [member], Guides(), LAYOUT)
        assert plan.tasks[0].scalars == allowed
        assert plan.tasks[0].steps[0].batch_examples == 20


def test_exact_directions_are_named_in_tasks_and_not_in_records() -> None:
    state, chosen = RoundState(0, adapter()), settings(active_segments=(1,), exact_head=True)
    plan = rounds.open_round(state, chosen, MEMBERS, Guides(), LAYOUT)
    task = messages.directions_task(plan, plan.tasks[0], 0)
    assert all(direction.exact for step in task.steps for direction in step.directions)
    assert RoundPlan.from_bytes(plan.to_bytes()).tasks == plan.tasks
    _, record, _ = rounds.apply(state, plan, answers(plan, state), NONE, LAYOUT, SCALE)
    assert record is not None
    assert not any(direction.exact for direction in messages.record_message(record).directions)


def test_a_refill_changes_no_other_task() -> None:
    state = RoundState(0, adapter())
    plan = rounds.open_round(state, settings(), MEMBERS[:3], Guides(), LAYOUT)
    wider, task = rounds.refill(plan, MEMBERS[4], LAYOUT)
    assert set(plan.tasks) < set(wider.tasks)
    assert wider.task("client-4") == task
    assert rounds.refill(wider, MEMBERS[4], LAYOUT) == (wider, task)
    seeds = [named.seed for item in wider.tasks for named in aggregation.expand(item)]
    assert len(set(seeds)) == len(seeds)


def test_reports_that_are_unusable_do_not_count() -> None:
    state = RoundState(0, adapter())
    plan = rounds.open_round(state, settings(), MEMBERS, Guides(), LAYOUT)
    good = answers(plan, state)
    bad = [
        replace(good[1], scalars=good[1].scalars[:-1]),
        replace(good[2], scalars=(float("nan"), *good[2].scalars[1:])),
        replace(good[3], client_id="stranger"),
        replace(good[4], examples=0),
    ]
    alone = rounds.apply(state, plan, good[:1], NONE, LAYOUT, SCALE)
    mixed = rounds.apply(state, plan, [*bad, good[0]], NONE, LAYOUT, SCALE)
    assert mixed[0].to_bytes() == alone[0].to_bytes()
    nothing, record, diagnostics = rounds.apply(state, plan, bad, NONE, LAYOUT, SCALE)
    assert (nothing.version, record, diagnostics.reports) == (0, None, 0)
    with pytest.raises(ValueError, match="version"):
        rounds.apply(replace(state, version=1), plan, good, NONE, LAYOUT, SCALE)


def test_one_wild_client_moves_the_adapter_no_further_than_the_bound() -> None:
    state = RoundState(0, adapter())
    plan = rounds.open_round(state, settings(), MEMBERS, Guides(), LAYOUT)
    good = answers(plan, state)
    wild = [replace(good[0], scalars=tuple(1e30 for _ in good[0].scalars)), *good[1:]]
    bound = aggregation.robust_bound(wild)
    assert bound < 20 * aggregation.robust_bound(good)
    _, _, diagnostics = rounds.apply(state, plan, wild, NONE, LAYOUT, SCALE)
    assert diagnostics.clipped_scalars == 6
    assert diagnostics.step_norm < 10.0


def test_clients_count_by_their_examples() -> None:
    state = RoundState(0, adapter())
    plan = rounds.open_round(state, settings(directions="shared"), MEMBERS[:2], Guides(), LAYOUT)
    one = ClientReport("client-0", (1.0,) * 6, 30)
    two = ClientReport("client-1", (-1.0,) * 6, 10)
    measured = aggregation.measured(plan, aggregation.usable(plan, [two, one]))
    assert len(measured) == 6
    assert [item.rho for item in measured] == pytest.approx([0.5] * 6)
    assert sum(item.weight for item in measured) == pytest.approx(1.0)


def test_the_rate_falls_linearly_to_zero() -> None:
    rates = [rounds.learning_rate(settings(), number) for number in range(41)]
    assert rates[0] == 0.05
    assert rates[20] == pytest.approx(0.025)
    assert rates[40] == 0.0
    assert rounds.learning_rate(settings(learning_rate_decay="none"), 39) == 0.05


def test_a_cohort_is_a_seeded_sample() -> None:
    names = [f"client-{number}" for number in range(20)]
    chosen = rounds.sample_cohort(names, 5, 1, 2)
    assert chosen == rounds.sample_cohort(names[::-1], 5, 1, 2)
    assert chosen == tuple(sorted(chosen))
    assert len({rounds.sample_cohort(names, 5, 1, number) for number in range(10)}) > 5
    assert rounds.sample_cohort(names, 50, 1, 2) == tuple(sorted(names))
