"""Where FedSPZO cuts the chain, and how often it perturbs the second block for each time of the first.

A direction's first block costs F1 and its second F2. With P2 perturbations of the second block for each of
the first, P1 of the first give a variance of n1 / P1 + n2 / (P1 P2), in units of the squared gradient (SPSA's
variance grows with the number of parameters), for a cost of P1 (F1 + P2 F2). The product of both, which no P1
changes, is least at

    P2 = sqrt(n2 F1 / (n1 F2)),      where it is (sqrt(n1 F1) + sqrt(n2 F2))^2,

never more than plain SPSA's (n1 + n2)(F1 + F2), by Cauchy and Schwarz. The paper (arXiv 2502.10239) leaves
both to the user.

F is what devices measured: each report says how long one run of each segment took. Before the first report it
is counted in the program. Times are never the same twice, so they overrule the count only where that saves a
tenth: a job goes the same way every time unless the count was wrong.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from cloud_service.job import Job
from device_runtime.bundle import Bundle
from device_runtime.errors import OptionError

LEAST_SAVING = 0.1


@dataclass(frozen=True)
class SplitSettings:
    """What a job and its bundle leave to decide. Segments are in chain order, the head's last.

    `parameters` are those that learn, `directions` is P1 P2; `boundary` and `per_prefix` are None where the
    job leaves them open.
    """

    flops: tuple[float, ...]
    parameters: tuple[int, ...]
    directions: int
    boundary: int | None = None
    per_prefix: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether the job leaves anything to decide."""
        return self.boundary is None or self.per_prefix is None


@dataclass(frozen=True)
class Split:
    """Where a round cuts, and P2. `segment_ms` are the times that were known, of so many reports."""

    boundary: int
    per_prefix: int
    segment_ms: tuple[float, ...] = ()
    reports: int = 0
    by: str = "count"  # "times" where they overruled the count, "job" where it left nothing open


def of_job(job: Job, bundle: Bundle) -> SplitSettings | None:
    """What a job says of its two blocks; None when it has no such blocks.

    Raises OptionError when the boundary is not inside the bundle's chain, or a block has nothing to learn.
    """
    if job.estimator != "fedspzo":
        return None
    layout, chain = bundle.layout, bundle.manifest.chain
    positions = chain.segments + 1
    active = set(job.segments(positions))
    spans = [layout.segment_slice(k) for k in range(positions)]
    parameters = tuple(span.stop - span.start if k in active else 0 for k, span in enumerate(spans))
    if len([count for count in parameters if count]) < 2:
        raise OptionError(
            'job: estimator = "fedspzo" needs two segments that learn: use active_segments = "all"'
        )
    counted = {method.name: float(method.flops) for method in chain.methods}
    names = [*(f"segment_{k}" for k in range(chain.segments)), "head"]
    cut = job.boundary
    if cut is not None and not (sum(parameters[:cut]) and sum(parameters[cut:])):
        raise OptionError(f"job: boundary = {cut}: on both sides of it a segment has to learn")
    flops = tuple(counted.get(name, 0.0) or 1.0 for name in names)
    return SplitSettings(flops, parameters, job.directions_per_task, cut, job.per_prefix)


def decide(settings: SplitSettings, measured: Sequence[Sequence[float]] = ()) -> Split:
    """The split of the next round, from the milliseconds of each segment in so many reports.

    A report that does not name a positive time for every segment says nothing. Of the others each segment's
    share of its device's time counts, by the median, so that no device weighs more than another.
    """
    counted = choose(settings, settings.flops)
    if not settings.is_open:
        return Split(*counted, by="job")
    usable = [times for times in measured if _is_whole(times, len(settings.flops))]
    if not usable:
        return Split(*counted)
    shares = [[ms / sum(times) for ms in times] for times in usable]
    total_ms = statistics.median(sum(times) for times in usable)
    segment_ms = tuple(total_ms * statistics.median(column) for column in zip(*shares, strict=True))
    timed = choose(settings, segment_ms)
    saving = 1 - _product(settings, segment_ms, *timed) / _product(settings, segment_ms, *counted)
    if saving < LEAST_SAVING:
        return Split(*counted, segment_ms, len(usable))
    return Split(*timed, segment_ms, len(usable), by="times")


def choose(settings: SplitSettings, costs: Sequence[float]) -> tuple[int, int]:
    """(boundary, P2) of least cost times variance; what is given stays, and P2 divides the directions.

    `costs` are those of a run of each segment, in any unit.
    """
    counts, directions = settings.parameters, settings.directions
    inside = [cut for cut in range(1, len(counts)) if sum(counts[:cut]) and sum(counts[cut:])]
    candidates = inside if settings.boundary is None else [settings.boundary]
    divisors = [d for d in range(1, directions + 1) if directions % d == 0]
    divisors = divisors if settings.per_prefix is None else [settings.per_prefix]
    best = min((_product(settings, costs, cut, p2), cut, p2) for cut in candidates for p2 in divisors)
    return best[1], best[2]


def _product(settings: SplitSettings, costs: Sequence[float], cut: int, p2: int) -> float:
    n1, n2 = sum(settings.parameters[:cut]), sum(settings.parameters[cut:])
    return (n1 + n2 / p2) * (sum(costs[:cut]) + p2 * sum(costs[cut:]))


def _is_whole(times: Sequence[float], segments: int) -> bool:
    return len(times) == segments and all(math.isfinite(ms) and ms > 0 for ms in times)
