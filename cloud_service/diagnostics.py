"""How a round went, for operators: plain numbers that are stored with the round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_service.plan import ClientReport, RoundPlan


@dataclass(frozen=True)
class Diagnostics:
    """How a round went. `version` is the one that resulted; equal to the plan's when no report was usable."""

    round: int
    version: int
    reports: int
    scalars: int
    examples: int
    mean_abs_scalar: float
    clipped_scalars: int = 0  # scalars that the cloud cut to its robust bound
    guide_weight: float = 0.0  # the weight that the public gradient got
    estimate_norm: float = 0.0  # of the devices' estimate of S^2 grad f
    step_norm: float = 0.0  # of what was added to the adapter
    clamped_parameters: int = 0  # that would have left the grid's bound
    segment_scores: tuple[float, ...] = ()  # with chainfed: mean CKA, in the round that asked for it
    agreement: float = 0.0  # with chainfed: the stage's sum of inner products, see chain
    stage_ended: str = ""  # with chainfed: "converged" or "share" in a stage's last round


def counted(plan: RoundPlan, version: int, kept: Sequence[ClientReport]) -> Diagnostics:
    """What the reports alone say."""
    scalars = [abs(scalar) for report in kept for scalar in report.scalars]
    return Diagnostics(
        round=plan.round,
        version=version,
        reports=len(kept),
        scalars=len(scalars),
        examples=sum(report.examples for report in kept),
        mean_abs_scalar=sum(scalars) / len(scalars) if scalars else 0.0,
    )
