"""A round's plan keeps to what devices disclose by their directions' energy, not by segments alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cloud_service import rounds
from cloud_service.directions import Float32, Guides
from cloud_service.head_share import counts_as_head
from cloud_service.plan import CohortMember, RoundSettings, RoundState
from device_runtime.zo.layout import Layout

LAYOUT = Layout.build([("lora", 0, (60, 100), 20), ("bias", 1, (3,), 20), ("weight", 1, (3, 200), 20)])
HEAD = LAYOUT.segment_slice(1)
SETTINGS = RoundSettings("isotropic", "shared", 200, 8, 1e-2, 0.1, 5, active_segments=(0, 1), local_steps=2)


def guide_in_the_head() -> tuple[Guides, Float32]:
    values: Float32 = np.zeros(LAYOUT.parameters, np.float32)
    values[HEAD] = 10 * np.random.default_rng(1).normal(size=603)
    return Guides(b"g" * 32, (0, 1), 1.0, 1.0), values


def test_scale_and_guide_decide_what_counts_as_the_heads() -> None:
    scale: Float32 = np.ones(LAYOUT.parameters, np.float32)
    assert not counts_as_head(SETTINGS, Guides(), None, None, LAYOUT)
    assert not counts_as_head(SETTINGS, Guides(), None, scale, LAYOUT)
    scale[HEAD] = 4.0
    assert counts_as_head(SETTINGS, Guides(), None, scale, LAYOUT)
    zgr = replace(SETTINGS, estimator="zgr")
    assert counts_as_head(zgr, *guide_in_the_head(), None, LAYOUT)
    assert not counts_as_head(replace(zgr, isotropic_fraction=0.99), *guide_in_the_head(), None, LAYOUT)
    fedspzo = replace(SETTINGS, estimator="fedspzo", boundary=1, per_prefix=4)
    assert counts_as_head(fedspzo, Guides(), None, None, LAYOUT)
    assert counts_as_head(replace(SETTINGS, active_segments=(1,)), Guides(), None, None, LAYOUT)


def test_the_plan_keeps_to_the_heads_budget_then() -> None:
    state = RoundState(0, np.zeros(LAYOUT.parameters, np.float32))
    member = CohortMember("a", 80, max_scalars_per_round=300, max_head_scalars_per_round=64)
    for of_head, expected in ((False, 2 * 150), (True, 2 * 32)):
        chosen = replace(SETTINGS, counts_as_head=of_head)
        plan = rounds.open_round(state, chosen, [member], Guides(), LAYOUT)
        assert plan.tasks[0].scalars == expected
