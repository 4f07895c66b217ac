"""Where FedSPZO cuts the chain, and how often it perturbs the second block for each time of the first.

A direction's first block costs F1 and its second F2. With P2 perturbations of the second block for each of
the first, P1 of the first give a variance of n1 / P1 + n2 / (P1 P2), in units of the squared gradient (SPSA's
variance grows with the number of parameters), for a cost of P1 (F1 + P2 F2). The product of both, which no P1
changes, is least at

    P2 = sqrt(n2 F1 / (n1 F2)),      where it is (sqrt(n1 F1) + sqrt(n2 F2))^2,

never more than plain SPSA's (n1 + n2)(F1 + F2), by Cauchy and Schwarz. The paper (arXiv 2502.10239) leaves
both to the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cloud_service.job import Job
from device_runtime.bundle import Bundle
from device_runtime.errors import OptionError


def choose(
    costs: Sequence[float],
    parameters: Sequence[int],
    directions: int,
    boundary: int | None = None,
    per_prefix: int | None = None,
) -> tuple[int, int]:
    """(boundary, P2) of least cost times variance; what is given stays, and P2 divides `directions`.

    Args:
        costs: of a run of each segment, the head's last; any unit.
        parameters: active parameters of each segment, the head's last.
        directions: P1 times P2.
    """
    inside = [cut for cut in range(1, len(costs)) if sum(parameters[:cut]) and sum(parameters[cut:])]
    candidates = inside if boundary is None else [boundary]
    divisors = [d for d in range(1, directions + 1) if directions % d == 0]
    divisors = divisors if per_prefix is None else [per_prefix]

    def product(cut: int, p2: int) -> float:
        n1, n2 = sum(parameters[:cut]), sum(parameters[cut:])
        return (n1 + n2 / p2) * (sum(costs[:cut]) + p2 * sum(costs[cut:]))

    best = min((product(cut, p2), cut, p2) for cut in candidates for p2 in divisors)
    return best[1], best[2]


def resolved(job: Job, bundle: Bundle) -> Job:
    """The job with its "auto" boundary and P2 decided; as it is when it does not use them.

    Raises OptionError when the boundary is not inside the bundle's chain, or a block has nothing to learn.
    """
    if job.estimator != "fedspzo":
        return job
    layout, chain = bundle.layout, bundle.manifest.chain
    positions = chain.segments + 1
    active = set(job.segments(positions))
    spans = [layout.segment_slice(k) for k in range(positions)]
    parameters = [span.stop - span.start if k in active else 0 for k, span in enumerate(spans)]
    if len([count for count in parameters if count]) < 2:
        raise OptionError(
            'job: estimator = "fedspzo" needs two segments that learn: use active_segments = "all"'
        )
    flops = {method.name: float(method.flops) for method in chain.methods}
    costs = [
        flops.get(name, 0.0) or 1.0 for name in [*(f"segment_{k}" for k in range(chain.segments)), "head"]
    ]
    cut = job.boundary
    if cut is not None and not (sum(parameters[:cut]) and sum(parameters[cut:])):
        raise OptionError(f"job: boundary = {cut}: on both sides of it a segment has to learn")
    boundary, per_prefix = choose(costs, parameters, job.directions_per_task, cut, job.per_prefix)
    return replace(job, boundary=boundary, per_prefix=per_prefix)
