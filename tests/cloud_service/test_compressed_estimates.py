"""A guide that arrives at two bits a parameter costs alignment, and brings no bias."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cloud_service import estimators
from cloud_service.directions import Float32, Float64, Guide, Received
from cloud_service.estimators import Measured
from cloud_service.plan import RoundSettings
from device_runtime.core import kernels
from device_runtime.zo.layout import Layout

LAYOUT = Layout.build([("a", 0, (100,), 20), ("b", 1, (4, 50), 20)])
N = LAYOUT.parameters
SEGMENTS = (0, 1)
RNG = np.random.default_rng(71)
SCALE = RNG.uniform(0.5, 2.0, N).astype(np.float32)
SAMPLED = RNG.normal(size=N).astype(np.float32)
STEP = 1.0  # of a normal guide's root mean square: two bits a parameter
HEADERS_BYTES = 2 * 20  # of two segments: what a longer segment would not notice
ENCODED = [kernels.encode_guide(SAMPLED[LAYOUT.segment_slice(k)], STEP) for k in SEGMENTS]
ARRIVED = np.concatenate(
    [
        kernels.decode_guide(data, LAYOUT.segment_slice(k).stop - LAYOUT.segment_slice(k).start)
        for k, data in zip(SEGMENTS, ENCODED, strict=True)
    ]
)
LOST = SAMPLED.astype(np.float64) - ARRIVED
# The slope lies along what compression lost: whoever takes one guide for the other is far off.
GRADIENT = RNG.normal(size=N) + 3.0 * LOST
GUIDE = Guide(b"g" * 32, SEGMENTS, float(np.linalg.norm(SAMPLED)))
ROUNDS, DIRECTIONS = 500, 8


def settings() -> RoundSettings:
    return RoundSettings(
        estimator="zgr",
        directions="per_device",
        directions_per_task=DIRECTIONS,
        batch_examples=8,
        epsilon=1e-2,
        learning_rate=0.1,
        rounds=10,
        active_segments=SEGMENTS,
    )


def errors(received: Received, scale: Float32 | None) -> list[tuple[float, float]]:
    """Where devices measure along what arrived and the cloud computes with `received`: (mean error, its
    standard error) along the guide that arrived, what was lost of it, and the gradient.
    """
    chosen, arrived = settings(), {GUIDE.name: ARRIVED}
    s = np.ones(N) if scale is None else scale.astype(np.float64)
    along = [vector / np.linalg.norm(vector) for vector in (ARRIVED.astype(np.float64), LOST, GRADIENT)]
    rows = []
    for repetition in range(ROUNDS):
        first = 50 * repetition
        named = estimators.direction(chosen, GUIDE, LAYOUT, first, DIRECTIONS).expanded()
        zs = [estimators.realised(item, chosen, arrived, LAYOUT, scale) for item in named]
        measured = [
            Measured(item, 1 / DIRECTIONS, float(z @ GRADIENT)) for item, z in zip(named, zs, strict=True)
        ]
        error: Float64 = (
            estimators.estimate(measured, chosen, received, LAYOUT, scale).vector - s * s * GRADIENT
        )
        rows.append([float(error @ vector) for vector in along])
    found = np.array(rows)
    spread = found.std(axis=0) / math.sqrt(ROUNDS)
    return list(zip(found.mean(axis=0).tolist(), spread.tolist(), strict=True))


def test_the_guide_arrives_at_about_two_bits() -> None:
    bits = 8 * (sum(len(data) for data in ENCODED) - HEADERS_BYTES) / N
    assert 1.7 < bits < 2.3
    cosine = float(SAMPLED @ ARRIVED / np.sqrt((SAMPLED @ SAMPLED) * (ARRIVED @ ARRIVED)))
    assert 0.9 < cosine < 0.98


@pytest.mark.parametrize("scale", [None, SCALE])
def test_measured_along_what_arrived_the_estimate_is_unbiased(scale: Float32 | None) -> None:
    for mean, spread in errors({GUIDE.name: ARRIVED}, scale):
        assert abs(mean) < 4.0 * spread + 2e-3


def test_a_cloud_that_computed_with_the_guide_as_sampled_would_be_wrong() -> None:
    """So the test above can fail."""
    assert any(abs(mean) > 8.0 * spread for mean, spread in errors({GUIDE.name: SAMPLED}, None))
