"""The public fit and its minimiser, on functions whose minimum is known."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from cloud_service.directions import Float32, Float64
from cloud_service.public_fit import fit_head_first, lbfgs, on_grid
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


class Quadratic:
    """What fit needs of guides.Objective: the mean of |theta - example|^2 / 2 over the active segments."""

    layout = Layout.build([("a", 0, (3,), 20), ("head", 1, (2,), 20)])
    examples = 20

    def __init__(self, segments: tuple[int, ...]) -> None:
        spans = [np.arange(5)[self.layout.segment_slice(k)] for k in segments]
        self.active = np.concatenate(spans)
        self.fits: list[int] = []  # how many examples each gradient was over

    def loss_and_gradient(self, adapter: Float32, rows: Iterable[int]) -> tuple[float, Float64]:
        self.fits.append(len(list(rows)))
        gradient = np.zeros(5)
        gradient[self.active] = adapter.astype(np.float64)[self.active] - 0.5
        return float(gradient @ gradient) / 2, gradient

    def score(self, adapter: Float32, rows: Iterable[int]) -> tuple[float, int, int]:
        return self.loss_and_gradient(adapter, rows)[0], 0, len(list(rows))


@pytest.mark.parametrize(("segments", "asked"), [((0, 1), [(1,), (0, 1)]), ((1,), [(1,)]), ((0,), [(0,)])])
def test_the_whole_chain_is_fitted_once_after_its_head(
    segments: tuple[int, ...], asked: list[tuple[int, ...]]
) -> None:
    made: dict[tuple[int, ...], Quadratic] = {}

    def over(which: tuple[int, ...]) -> Quadratic:
        return made.setdefault(which, Quadratic(which))

    found = fit_head_first(over, segments, 1, np.zeros(5, np.float32), None)  # type: ignore[arg-type]
    assert list(made) == asked
    assert 16 in made[asked[0]].fits  # the first fit holds a fifth out, to choose the penalty
    if len(asked) == 2:
        assert set(made[asked[1]].fits) == {20}
    np.testing.assert_allclose(found.adapter[over(segments).active], 0.5, atol=0.05)
