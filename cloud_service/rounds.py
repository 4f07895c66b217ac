"""A round as two pure functions: `open_round` says what every client is asked, `apply` what comes of the answers.

    open_round(state, settings, cohort, guides, layout) -> RoundPlan
    apply(state, plan, reports, layout, scale)          -> (state, record or None, diagnostics)

Neither reads a clock, draws a random number or depends on the order of arrival: seeds are derived from the job's seed,
the round and the client id; sums run over sorted client ids, then steps, then direction numbers, in float64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cloud_service.plan import (
    ClientReport,
    ClientTask,
    CohortMember,
    Diagnostics,
    Float32,
    Guides,
    Record,
    RoundPlan,
    RoundSettings,
    RoundState,
)
from device_runtime.zo.layout import Layout


def derive_seed(seed: int, round_number: int, purpose: str, client_id: str = "") -> int:
    """64 bits that depend on nothing but the arguments: the first 8 bytes of a SHA-256, little-endian."""
    text = f"{seed}\t{round_number}\t{purpose}\t{client_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def sample_cohort(client_ids: Sequence[str], size: int, seed: int, round_number: int) -> tuple[str, ...]:
    """`size` of the clients (all when there are fewer), by seed; sorted. The order of `client_ids` does not matter."""
    ranked = sorted(set(client_ids), key=lambda name: (derive_seed(seed, round_number, "cohort", name), name))
    return tuple(sorted(ranked[:size]))


def open_round(
    state: RoundState, settings: RoundSettings, cohort: Sequence[CohortMember], guides: Guides, layout: Layout
) -> RoundPlan:
    """Plans round `state.version` for the cohort, within each member's disclosure budget."""
    raise NotImplementedError


def refill(plan: RoundPlan, member: CohortMember, layout: Layout) -> tuple[RoundPlan, ClientTask]:
    """The plan with one more client in it, for one whose lease has expired; and that client's task."""
    raise NotImplementedError


def apply(
    state: RoundState, plan: RoundPlan, reports: Sequence[ClientReport], layout: Layout, scale: Float32 | None
) -> tuple[RoundState, Record | None, Diagnostics]:
    """The next version from the reports. The record is None when the step is no list (then send a delta)."""
    raise NotImplementedError
