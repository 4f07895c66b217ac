"""The weight of the public gradient is the one that minimises the mean squared error."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_service import rectify


def test_the_weight_is_the_formula() -> None:
    statistics = rectify.update_statistics(None, variance=3.0, squared_distance=5.0)
    assert rectify.optimal_weight(statistics, 1.0) == pytest.approx(3.0 / (3.0 + 2.0))
    assert rectify.optimal_weight(statistics, 19.0) == pytest.approx((3.0 / 19.0) / (3.0 / 19.0 + 2.0))


def test_the_ends() -> None:
    silent = rectify.update_statistics(None, variance=0.0, squared_distance=1.0)
    assert rectify.optimal_weight(silent, 1.0) == 0.0
    equal = rectify.update_statistics(None, variance=2.0, squared_distance=1.0)
    assert rectify.optimal_weight(equal, 1.0) == 1.0


def test_a_running_mean_starts_at_the_first_value_and_forgets() -> None:
    statistics = rectify.update_statistics(None, 4.0, 4.0)
    assert statistics["variance"] == pytest.approx(4.0)
    for _ in range(200):
        statistics = rectify.update_statistics(statistics, 1.0, 2.0)
    assert statistics["variance"] == pytest.approx(1.0)
    assert statistics["squared_distance"] == pytest.approx(2.0)


def test_the_measured_weight_has_the_least_error() -> None:
    """Draw both gradients many times; no other weight has a smaller mean squared error."""
    rng = np.random.default_rng(0)
    d, sigma, bias, tau, draws = 50, 0.4, 0.8, 0.1, 4_000
    truth, shift = rng.normal(size=d), rng.normal(size=d)
    shift *= bias / np.linalg.norm(shift)
    devices = truth + sigma * rng.normal(size=(draws, d))
    public = truth + shift + tau / np.sqrt(d) * rng.normal(size=(draws, d))
    statistics = None
    for one, other in zip(devices, public, strict=True):
        distance = float(np.sum((one - other) ** 2))
        statistics = rectify.update_statistics(statistics, d * sigma**2, distance)
    assert statistics is not None
    weight = rectify.optimal_weight(statistics, 1.0)
    assert weight == pytest.approx(d * sigma**2 / (d * sigma**2 + bias**2 + tau**2), abs=0.08)
    errors = {
        tried: float(np.mean(np.sum((tried * public + (1 - tried) * devices - truth) ** 2, axis=1)))
        for tried in (0.0, 0.5, weight, 1.0)
    }
    assert min(errors, key=lambda tried: errors[tried]) == weight
