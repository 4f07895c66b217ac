"""Whether a job's epsilon suits its bundle, by the fidelity that was measured at export."""

from __future__ import annotations

import math

from cloud_service.job import Job
from device_runtime.bundle import Bundle

LEAST_CORRELATION = 0.9


def doubt(job: Job, bundle: Bundle) -> str | None:
    """One line where projected gradients at the job's epsilon were far from the gradient's; else None.

    Looked at is the measured epsilon that is nearest in ratio. Bundles without a measurement pass.
    """
    measured = bundle.manifest.fidelity
    if not measured.points:
        return None
    nearest = min(measured.points, key=lambda point: abs(math.log(point.epsilon / job.epsilon)))
    correlation = min(nearest.initial_correlation, nearest.moved_correlation)
    if correlation >= LEAST_CORRELATION:
        return None
    return (
        f"epsilon = {job.epsilon:g}: near it this bundle's projected gradients correlate {correlation:.2f} "
        f"with the true ones; epsilon = {measured.epsilon:g} did best at export"
    )
