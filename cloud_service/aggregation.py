"""From reports to one weighted list of measured directions. Nothing depends on the order of arrival.

Clients count in proportion to the examples behind their scalars; a scalar is cut to a bound that a minority
of clients cannot move. Sums run over sorted client ids, then steps, then direction numbers, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cloud_service.directions import Direction
from cloud_service.estimators import Measured
from cloud_service.plan import ClientReport, ClientTask, RoundPlan

# |rho| of normal scalars exceeds 6 deviations once in 5e8; the median of |x| is 0.6745 deviations.
_BOUND_DEVIATIONS = 6.0
_MEDIAN_OF_NORMAL = 0.6745


def usable(plan: RoundPlan, reports: Sequence[ClientReport]) -> tuple[ClientReport, ...]:
    """Reports of the plan's clients with as many finite numbers as asked, sorted by client id, one each."""
    found: dict[str, ClientReport] = {}
    for report in reports:
        task = plan.task(report.client_id)
        if task is None or len(report.scalars) != task.scalars or len(report.scores) != plan.scores:
            continue
        if report.examples >= 1 and all(map(math.isfinite, (*report.scalars, *report.scores))):
            found.setdefault(report.client_id, report)
    return tuple(found[name] for name in sorted(found))


def robust_bound(reports: Sequence[ClientReport]) -> float:
    """6 deviations, one taken as median |rho| / 0.6745 over a round's scalars; infinite when that is 0."""
    scalars = np.abs(np.array([scalar for report in reports for scalar in report.scalars], dtype=np.float64))
    median = float(np.median(scalars)) if scalars.size else 0.0
    return _BOUND_DEVIATIONS * median / _MEDIAN_OF_NORMAL if median > 0.0 else math.inf


def clipped(reports: Sequence[ClientReport], bound: float) -> tuple[tuple[ClientReport, ...], int]:
    """The reports with every scalar cut to [-bound, bound], and how many were cut."""
    count = sum(abs(scalar) > bound for report in reports for scalar in report.scalars)
    cut = tuple(
        replace(report, scalars=tuple(min(bound, max(-bound, float(scalar))) for scalar in report.scalars))
        for report in reports
    )
    return cut, count


def measured(plan: RoundPlan, reports: Sequence[ClientReport]) -> tuple[Measured, ...]:
    """Every direction that was measured, with its weight and scalar; `reports` are usable ones, in order.

    Directions that several clients measured (shared seeds) become one, with the clients' weighted mean.
    """
    examples = float(sum(report.examples for report in reports))
    shared = plan.settings.directions == "shared"
    sums: dict[tuple[Direction, int], tuple[float, float]] = {}
    for place, report in enumerate(reports):
        task = plan.task(report.client_id)
        assert task is not None  # usable
        share = report.examples / examples / task.scalars
        batches = [number for number, step in enumerate(task.steps) for _ in range(step.scalars)]
        for named, number, scalar in zip(expand(task), batches, report.scalars, strict=True):
            key = (named, number if shared else place * len(task.steps) + number)
            weight, total = sums.get(key, (0.0, 0.0))
            sums[key] = (weight + share, total + share * float(scalar))
    return tuple(Measured(named, weight, total / weight, n) for (named, n), (weight, total) in sums.items())


def expand(task: ClientTask) -> tuple[Direction, ...]:
    """A task's directions one by one, in the order of its scalars."""
    return tuple(
        direction for step in task.steps for named in step.directions for direction in named.expanded()
    )
