"""Both estimators are unbiased for S^2 grad f; the paper's form is what the paper says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cloud_service import estimators
from cloud_service.directions import Float32, Float64, Guide, Received
from cloud_service.estimators import Measured
from cloud_service.plan import RoundSettings
from device_runtime.zo.layout import Layout

LAYOUT = Layout.build([("a", 0, (3,), 20), ("b", 1, (2, 4), 20)])
N = LAYOUT.parameters
RNG = np.random.default_rng(5)
SCALE = RNG.uniform(0.5, 2.0, N).astype(np.float32)
GRADIENT = RNG.normal(size=N)
GUIDE_VALUES = RNG.normal(size=N).astype(np.float32)
GUIDE = Guide(b"g" * 32, (0, 1), float(np.sqrt(np.sum(GUIDE_VALUES.astype(np.float64) ** 2))))
RECEIVED: Received = {GUIDE.name: GUIDE_VALUES}
BATCH_NOISE = RNG.normal(size=N)
ROUNDS = 250


def settings(**changes: object) -> RoundSettings:
    values: dict[str, object] = {
        "estimator": "zgr",
        "directions": "per_device",
        "directions_per_task": 4,
        "batch_examples": 8,
        "epsilon": 1e-2,
        "learning_rate": 0.1,
        "rounds": 10,
        "active_segments": (0, 1),
    }
    return RoundSettings(**{**values, **changes})  # type: ignore[arg-type]


def mean_estimate(
    chosen: RoundSettings, guide: Guide | None, scale: Float32 | None
) -> tuple[Float64, Float64]:
    """The mean over many rounds of two batches, and four standard errors of each entry."""
    estimates = []
    for repetition in range(ROUNDS):
        measured = []
        for number, named in enumerate(
            estimators.direction(chosen, guide, LAYOUT, 1_000 + 8 * repetition, 8).expanded()
        ):
            z = estimators.realised(named, chosen, RECEIVED, LAYOUT, scale)
            # The two batches see different gradients, whose mean is the gradient.
            seen = GRADIENT + (BATCH_NOISE if number < 4 else -BATCH_NOISE)
            measured.append(Measured(named, 1 / 8, float(z @ seen), number // 4))
        estimates.append(estimators.estimate(measured, chosen, RECEIVED, LAYOUT, scale).vector)
    rows = np.array(estimates)
    return rows.mean(axis=0), 4.0 * rows.std(axis=0) / math.sqrt(ROUNDS) + 2e-4


@pytest.mark.parametrize("scale", [None, SCALE])
@pytest.mark.parametrize(
    ("estimator", "fraction"),
    [("isotropic", 0.5), ("fedspzo", 0.5), ("zgr", 0.5), ("zgr", 0.1), ("zgr", 1.0)],
)
def test_calibrated_estimators_are_unbiased(estimator: str, fraction: float, scale: Float32 | None) -> None:
    blocks = {"boundary": 1, "per_prefix": 2} if estimator == "fedspzo" else {}
    chosen = settings(estimator=estimator, isotropic_fraction=fraction, **blocks)
    mean, error = mean_estimate(chosen, GUIDE if estimator == "zgr" else None, scale)
    s = np.ones(N) if scale is None else scale.astype(np.float64)
    assert np.all(np.abs(mean - s * s * GRADIENT) < error)


def test_the_paper_form_estimates_its_covariance_times_the_gradient() -> None:
    chosen = settings(paper_form=True, isotropic_fraction=0.3)
    mean, error = mean_estimate(chosen, GUIDE, None)
    u = GUIDE_VALUES.astype(np.float64)
    u /= math.sqrt(float(u @ u))
    sigma = 0.3 / N * np.eye(N) + 0.7 * np.outer(u, u)
    assert np.all(np.abs(mean - sigma @ GRADIENT) < error)
    assert np.trace(sigma) == pytest.approx(1.0)
    # Far from the gradient itself: this is why it is calibrated by default.
    assert np.linalg.norm(mean - GRADIENT) > 0.5 * np.linalg.norm(GRADIENT)


def test_the_estimate_from_rounded_directions_equals_the_formula_and_its_parts() -> None:
    chosen = settings(isotropic_fraction=0.4)
    named = [estimators.direction(chosen, GUIDE, LAYOUT, seed, 1) for seed in range(600)]
    z = [estimators.realised(item, chosen, RECEIVED, LAYOUT, SCALE) for item in named]
    measured = [Measured(item, 1 / 600, float(row @ GRADIENT)) for item, row in zip(named, z, strict=True)]
    found = estimators.estimate(measured, chosen, RECEIVED, LAYOUT, SCALE)
    listed = sum(coefficient * row for coefficient, row in zip(found.coefficients, z, strict=True))
    np.testing.assert_allclose(
        found.vector,
        listed + found.guide_coefficients[GUIDE.name] * GUIDE_VALUES.astype(np.float64),
        rtol=1e-12,
        atol=1e-12,
    )
    expected = SCALE.astype(np.float64) ** 2 * GRADIENT
    error = (found.vector - expected) / SCALE
    # |S^-1 (vector - mean)|^2 has the variance that the spread of the scalars told.
    assert 0.2 < float(error @ error) / found.variance < 5.0


def test_the_variance_is_unbiased() -> None:
    """Over many small rounds, mean |S^-1 (vector - S^2 grad)|^2 equals the mean of the reported variance."""
    chosen, told, seen = settings(estimator="isotropic"), 0.0, 0.0
    for repetition in range(400):
        named = [
            estimators.direction(chosen, None, LAYOUT, 10_000 + 8 * repetition + number, 1)
            for number in range(8)
        ]
        measured = [
            Measured(item, 1 / 8, float(estimators.realised(item, chosen, {}, LAYOUT, SCALE) @ GRADIENT))
            for item in named
        ]
        found = estimators.estimate(measured, chosen, {}, LAYOUT, SCALE)
        error = found.vector / SCALE - SCALE * GRADIENT
        seen += float(error @ error)
        told += found.variance
    assert told == pytest.approx(seen, rel=0.15)


def test_a_fraction_of_zero_measures_the_guide_alone() -> None:
    chosen = settings(isotropic_fraction=0.0)
    named = estimators.direction(chosen, GUIDE, LAYOUT, 3, 1)
    z = estimators.realised(named, chosen, RECEIVED, LAYOUT, None)
    found = estimators.estimate([Measured(named, 1.0, float(z @ GRADIENT))], chosen, RECEIVED, LAYOUT, None)
    u = GUIDE_VALUES.astype(np.float64)
    np.testing.assert_allclose(found.vector, (u @ GRADIENT) / (u @ u) * u, rtol=1e-3, atol=1e-3)


def test_a_steep_guide_adds_no_noise_to_the_other_directions() -> None:
    """A slope along u of 1000 changes the calibrated estimate along u alone, and hardly its variance."""
    chosen = settings()
    u = GUIDE_VALUES.astype(np.float64)
    named = [estimators.direction(chosen, GUIDE, LAYOUT, seed, 1) for seed in range(32)]
    found = []
    for gradient in (GRADIENT, GRADIENT + 1000.0 * u / (u @ u)):
        rhos = [float(estimators.realised(item, chosen, RECEIVED, LAYOUT, None) @ gradient) for item in named]
        measured = [Measured(item, 1 / 32, rho) for item, rho in zip(named, rhos, strict=True)]
        found.append(estimators.estimate(measured, chosen, RECEIVED, LAYOUT, None))
    flat, steep = found
    assert (u @ (steep.vector - flat.vector)) == pytest.approx(1000.0, rel=0.1)
    assert steep.guide_coefficients != flat.guide_coefficients


def test_directions_along_guides_of_different_bits_are_estimated_without_bias() -> None:
    """Half of the devices received the guide rounded to its signs: each measured along its own."""
    coarse = Guide(b"c" * 32, (0, 1), GUIDE.length)
    received = {**RECEIVED, coarse.name: np.sign(GUIDE_VALUES).astype(np.float32)}
    chosen, estimates = settings(), []
    for repetition in range(ROUNDS):
        measured = []
        for batch, (guide, weight) in enumerate([(GUIDE, 0.15), (coarse, 0.1)]):
            for named in estimators.direction(
                chosen, guide, LAYOUT, 8 * repetition + 4 * batch, 4
            ).expanded():
                z = estimators.realised(named, chosen, received, LAYOUT, SCALE)
                measured.append(Measured(named, weight, float(z @ GRADIENT), batch))
        found = estimators.estimate(measured, chosen, received, LAYOUT, SCALE)
        zs = [estimators.realised(item.direction, chosen, received, LAYOUT, SCALE) for item in measured]
        listed = np.sum([c * z for c, z in zip(found.coefficients, zs, strict=True)], axis=0)
        for name, coefficient in found.guide_coefficients.items():
            listed += coefficient * received[name].astype(np.float64)
        np.testing.assert_allclose(found.vector, listed, rtol=1e-10, atol=1e-10)
        estimates.append(found.vector)
    rows = np.array(estimates)
    error = 4.0 * rows.std(axis=0) / math.sqrt(ROUNDS) + 2e-4
    assert np.all(np.abs(rows.mean(axis=0) - SCALE.astype(np.float64) ** 2 * GRADIENT) < error)


def test_a_guide_of_zeros_is_no_guide() -> None:
    chosen, zeros = settings(), {GUIDE.name: np.zeros(N, np.float32)}
    named = [estimators.direction(chosen, GUIDE, LAYOUT, seed, 1) for seed in range(8)]
    zs = [estimators.realised(item, chosen, zeros, LAYOUT, SCALE) for item in named]
    measured = [Measured(item, 1 / 8, float(z @ GRADIENT)) for item, z in zip(named, zs, strict=True)]
    found = estimators.estimate(measured, chosen, zeros, LAYOUT, SCALE)
    assert np.all(np.isfinite(found.vector))
    assert np.any(found.vector)
