"""The minimiser behind the public fit, on functions whose minimum is known."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_service.directions import Float64
from cloud_service.public_fit import lbfgs, on_grid
from device_runtime.zo.layout import Layout


def test_lbfgs_finds_the_minimum_of_a_badly_scaled_quadratic() -> None:
    rng = np.random.default_rng(2)
    curvature, target = np.geomspace(1e-2, 1e2, 30), rng.normal(size=30)

    def loss(x: Float64) -> tuple[float, Float64]:
        return float(0.5 * np.sum(curvature * (x - target) ** 2)), curvature * (x - target)

    found = lbfgs(loss, np.zeros(30), steps=600, tolerance=1e-8)
    np.testing.assert_allclose(found, target, atol=1e-3)


def test_lbfgs_never_ends_above_its_start() -> None:
    def rosenbrock(x: Float64) -> tuple[float, Float64]:
        a, b = 1 - x[0], x[1] - x[0] ** 2
        return float(a * a + 100 * b * b), np.array([-2 * a - 400 * x[0] * b, 200 * b])

    start = np.array([-1.2, 1.0])
    for steps in (1, 5, 100):
        assert rosenbrock(lbfgs(rosenbrock, start, steps))[0] <= rosenbrock(start)[0]
    np.testing.assert_allclose(lbfgs(rosenbrock, start, 200, 1e-8), [1.0, 1.0], atol=1e-4)


def test_a_fit_stays_on_the_grid_and_leaves_room_to_its_bound() -> None:
    layout = Layout.build([("a", 0, (3,), 20), ("b", 0, (2,), 18)])
    adapter = on_grid(np.array([1e9, -1e9, 0.1234567, 20.0, -0.0]), layout)
    layout.check(adapter)
    assert adapter[0] == pytest.approx(4.0)
    assert adapter[1] == pytest.approx(-4.0)
    assert adapter[3] == pytest.approx(16.0)
