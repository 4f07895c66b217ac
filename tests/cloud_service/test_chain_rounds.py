"""Rounds along a chain, as pure functions: scores, stages, what freezes, what starts anew, and identities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloud_service import aggregation, estimators, messages, opening, rounds
from cloud_service.chain import ChainSettings
from cloud_service.diagnostics import Diagnostics
from cloud_service.directions import Float32, Guides, Received
from cloud_service.plan import ClientReport, CohortMember, RoundPlan, RoundSettings, RoundState
from device_runtime.zo.grid import round_to_grid
from device_runtime.zo.layout import Layout

LAYOUT = Layout.build(
    [("a", 0, (4, 5), 20), ("b", 1, (3, 5), 20), ("c", 2, (7,), 20), ("head", 3, (3, 6), 19)]
)
RNG = np.random.default_rng(7)
TARGET = RNG.normal(size=LAYOUT.parameters)
SCALE: Float32 = RNG.uniform(0.5, 2.0, LAYOUT.parameters).astype(np.float32)
MEMBERS = [CohortMember(f"client-{number}", 80) for number in range(4)]
SCORES = {"client-0": (0.99, 0.8, 0.7), "client-1": (0.97, 0.9, 0.7), "client-2": (0.98, 0.9, 0.8)}


def adapter() -> Float32:
    return np.concatenate([round_to_grid(0.1 * RNG.normal(size=t.count), t.exponent) for t in LAYOUT.tensors])


def whole(**changes: object) -> RoundSettings:
    values: dict[str, object] = {
        "estimator": "chainfed", "directions": "per_device", "directions_per_task": 12, "batch_examples": 8,
        "epsilon": 1e-2, "learning_rate": 0.1, "rounds": 12, "momentum": 0.5,
        "active_segments": (0, 1, 2, 3), "seed": 3, "scale_sha256": b"s" * 32,
    }  # fmt: skip
    return RoundSettings(**{**values, **changes})  # type: ignore[arg-type]


def schedule(**changes: object) -> ChainSettings:
    found = ChainSettings(
        segments=3, window=1, global_weight=0.5, threshold=0.9, start=None, rounds=12, last_share=0.25
    )
    return replace(found, **changes)  # type: ignore[arg-type]


NONE: Received = {}


def guides_at(state: RoundState) -> tuple[Guides, Received]:
    gradient = SCALE.astype(np.float64) ** 2 * (state.adapter - TARGET - 0.2)
    factor = float(np.linalg.norm(SCALE) / np.linalg.norm(gradient))
    values = (gradient * factor).astype(np.float32)
    guides = Guides(b"g" * 32, (0, 1, 2, 3), float(np.linalg.norm(SCALE)), 1.0 / factor)
    guide = guides.at(0)
    assert guide is not None
    return guides, {guide.name: values}


def answers(plan: RoundPlan, state: RoundState) -> list[ClientReport]:
    """Scores where they are asked for, else the slopes of |theta - target|^2 / 2."""
    if plan.scores:
        return [ClientReport(name, (), 8, scores) for name, scores in SCORES.items() if plan.task(name)]
    found = []
    active = estimators.active_parameters(plan.settings, LAYOUT)
    for task in plan.tasks:
        directions = aggregation.expand(task)
        zs = [estimators.realised(named, plan.settings, NONE, LAYOUT, SCALE) for named in directions]
        slopes = tuple(float(np.float32(z @ (state.adapter - TARGET)[active])) for z in zs)
        found.append(ClientReport(task.client_id, slopes, 8))
    return found


def one_round(
    state: RoundState, settings: RoundSettings, chosen: ChainSettings | None
) -> tuple[RoundPlan, RoundState, Diagnostics]:
    staged = opening.staged(settings, chosen, state)
    guides, received = guides_at(state)
    plan = rounds.open_round(state, staged, MEMBERS, guides, LAYOUT)
    plan = RoundPlan.from_bytes(plan.to_bytes())  # as a restarted cloud reads it
    after, _, diagnostics = rounds.apply(state, plan, answers(plan, state), received, LAYOUT, SCALE)
    return plan, RoundState.from_bytes(after.to_bytes()), diagnostics


def test_a_chain_from_scores_to_end_to_end() -> None:
    state, seen = RoundState(0, adapter()), []
    for number in range(12):
        plan, after, diagnostics = one_round(state, whole(), schedule())
        chosen = plan.settings
        seen.append((plan.scores, chosen.active_segments, chosen.exit_segment, chosen.global_weight))
        moved = [k for k in range(4) if not np.array_equal(*(part(k, item) for item in (state, after)))]
        assert moved == ([] if plan.scores else list(chosen.active_segments))
        if diagnostics.stage_ended:
            assert after.momentum is None
            assert after.statistics is None
            assert after.estimate is None
        assert after.version == number + 1
        state = after
    # Segment 0 has a mean CKA of 0.98, segment 1 of 0.87: the chain starts at 1. The head, segment 3, waits
    # for the states that it was fitted to.
    window, later, end = (0, (1,), 2, 0.5), (0, (2, 3), 0, 0.0), (0, (1, 2, 3), 0, 0.0)
    assert seen[0] == (3, (0, 1, 2, 3), 0, 0.0)
    assert seen[1:] == [window] * 4 + [later] * 4 + [end] * 3
    assert state.chain is not None
    assert state.chain.scores == pytest.approx((0.98, 2.6 / 3, 2.2 / 3))


def part(segment: int, state: RoundState) -> Float32:
    return state.adapter[LAYOUT.segment_slice(segment)]


def test_the_rate_falls_within_each_stage() -> None:
    state, rates = RoundState(0, adapter()), []
    for _ in range(12):
        plan, state, _ = one_round(state, whole(), schedule(start=1))
        rates.append(rounds.learning_rate(plan.settings, plan.round))
    # Nine rounds among two windows, the first gets the odd one; three end to end.
    falling = [[0.1 * (1 - k / n) for k in range(n)] for n in (5, 4, 3)]
    assert rates == pytest.approx([rate for stage in falling for rate in stage])


def test_a_stage_converges_when_estimates_point_against_each_other() -> None:
    state = RoundState(0, adapter())
    chosen = schedule(start=0, rounds=60)
    ended: list[tuple[int, str]] = []
    for number in range(30):
        # Steps of nearly twice the distance to the minimum go back and forth around it.
        _, state, diagnostics = one_round(
            state, whole(rounds=60, momentum=0.0, learning_rate=1.9, learning_rate_decay="none",
                         directions_per_task=64, guide_weight=0.0), chosen
        )  # fmt: skip
        ended += [(number, diagnostics.stage_ended)] if diagnostics.stage_ended else []
        if diagnostics.stage_ended:
            assert diagnostics.agreement < 0.0
            break
    assert ended
    assert ended[0][1] == "converged"
    assert 4 <= ended[0][0] < 15  # its share are 15 rounds


def test_agreement_is_the_product_of_successive_estimates() -> None:
    state = RoundState(0, adapter())
    chosen = schedule(start=0, rounds=60)
    _, first, _ = one_round(state, whole(rounds=60), chosen)
    _, second, diagnostics = one_round(first, whole(rounds=60), chosen)
    assert first.estimate is not None
    assert second.estimate is not None
    assert first.chain is not None
    assert first.chain.agreement == 0.0
    expected = np.sum(first.estimate * second.estimate / SCALE.astype(np.float64) ** 2)
    assert diagnostics.agreement == pytest.approx(float(expected))
    assert second.chain is not None
    assert second.chain.agreement == diagnostics.agreement


def test_refused_scores_do_not_block_and_wrong_ones_do_not_count() -> None:
    state = RoundState(0, adapter())
    plan = rounds.open_round(state, opening.staged(whole(), schedule(), state), MEMBERS, Guides(), LAYOUT)
    assert [(task.scalars, len(task.steps)) for task in plan.tasks] == [(0, 1)] * 4
    task = messages.score_segments_task(plan.tasks[0])
    assert task.batch_examples == 64  # though a batch of directions has 8
    assert len({messages.score_segments_task(item).batch_seed for item in plan.tasks}) == 4
    one = [ClientReport("client-3", (), 8, (0.5, 0.5, 0.5))]
    wrong = [ClientReport("client-0", (), 8, (0.5, 0.5)), ClientReport("client-1", (1.0,), 8, (0.9,) * 3)]
    after, record, diagnostics = rounds.apply(state, plan, wrong + one, NONE, LAYOUT, SCALE)
    assert (diagnostics.reports, diagnostics.segment_scores) == (1, (0.5, 0.5, 0.5))
    assert after.chain is not None
    assert (after.chain.start, after.chain.first_round) == (0, 1)
    assert record is not None
    assert record.directions == ()
    nothing, _, _ = rounds.apply(state, plan, wrong, NONE, LAYOUT, SCALE)
    assert nothing.version == 0
    wider, task_of_another = rounds.refill(plan, CohortMember("client-9", 80, min_batch_examples=96), LAYOUT)
    assert wider.scores == 3
    assert task_of_another.steps[0].batch_examples == 96


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_window_of_all_segments_without_global_loss_is_the_isotropic_plan(momentum: float) -> None:
    """Same tasks on the wire, same records, same adapter, bit for bit, in every round."""
    chosen = schedule(window=3, global_weight=0.0)
    chained = plain = RoundState(0, adapter())
    for _ in range(4):
        states = []
        for settings, kept in (
            (opening.staged(whole(momentum=momentum), chosen, chained), chained),
            (whole(momentum=momentum, estimator="isotropic"), plain),
        ):
            guides, received = guides_at(kept)
            plan = rounds.open_round(kept, settings, MEMBERS, guides, LAYOUT)
            after, record, _ = rounds.apply(kept, plan, answers(plan, kept), received, LAYOUT, SCALE)
            sent = [messages.directions_task(plan, task, 9).SerializeToString() for task in plan.tasks]
            said = None if record is None else messages.record_message(record).SerializeToString()
            states.append((sent, said, after.adapter.tobytes(), after))
        assert states[0][:3] == states[1][:3]
        assert (states[0][1] is None) == (momentum > 0)
        chained, plain = states[0][3], states[1][3]


def test_an_exit_travels() -> None:
    state = RoundState(0, adapter())
    plan, _, _ = one_round(state, whole(), schedule(start=0))
    task = messages.directions_task(plan, plan.tasks[0], 9)
    assert (task.exit_segment, task.global_weight, list(task.active_segments)) == (1, 0.5, [0])


def test_a_state_from_before_there_were_chains_is_read() -> None:
    state = RoundState(3, adapter(), RNG.normal(size=LAYOUT.parameters), {"count": 1.0})
    data = state.to_bytes()
    assert b"chain" not in data  # and written as it was
    read = RoundState.from_bytes(data)
    assert read.chain is None
    assert read.to_bytes() == data
