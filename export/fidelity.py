"""How well projected gradients follow the float32 model's gradient, and which precision that allows.

A quantised program answers a slightly other function, in steps: the difference of two losses that lie close
together is mostly those steps, and that of two far apart is no derivative any more. So there is a best
epsilon, and it is measured: over isotropic directions on one batch of real text, the correlation of the
program's rho = (L(θ+εz) − L(θ−εz)) / 2ε with autograd's gᵀz of the float32 model, at the adapter that
training starts from and at one that has moved. It is not held against a program at the same epsilon, which
would share its errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_runtime.bundle import Bundle
from device_runtime.directions import Direction
from device_runtime.engine import Engine
from device_runtime.errors import BundleError
from device_runtime.examples import Example, read_examples
from device_runtime.private_examples import ExampleSet
from device_runtime.text import Tokenizer
from device_runtime.zo import philox
from device_runtime.zo.grid import round_to_grid
from device_runtime.zo.layout import Layout
from export.model import Model
from protos import bundle_pb2

EPSILONS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
DIRECTIONS = 64
MIN_CORRELATION = 0.99
# How the moved adapter came to be: steps down the batch's gradient, each tensor by this root mean square.
STEPS, STEP_SIZE = 4, 0.01
FORWARDS = 5  # of which the median time counts


@dataclass(frozen=True)
class Point:
    """The correlations at one epsilon."""

    epsilon: float
    initial: float
    moved: float

    @property
    def smaller(self) -> float:
        """What the program can be relied on for."""
        return min(self.initial, self.moved)


def best(points: Sequence[Point]) -> Point:
    """The point of least error; of equal ones that of the smallest epsilon."""
    return max(points, key=lambda point: (point.smaller, -point.epsilon))


def choose(curves: Mapping[str, Sequence[Point]], forward_ms: Mapping[str, float]) -> str:
    """The fastest precision whose correlation at its best epsilon is at least 0.99; else the truest one."""
    true_enough = [name for name, points in curves.items() if best(points).smaller >= MIN_CORRELATION]
    if true_enough:
        return min(true_enough, key=lambda name: forward_ms[name])
    return max(curves, key=lambda name: best(curves[name]).smaller)


def calibration_examples(path: Path, class_names: Sequence[str], rows: int) -> list[Example]:
    """The first `rows` examples of a file; where its labels are other classes, ours take turns.

    Without classes a label is a response, and is taken as it is.

    Raises:
        ExamplesError: the file cannot be read as examples.
    """
    names = list(class_names)
    found = read_examples(path)[:rows]
    if not names:
        return found
    return [
        example if example.label in names else Example(example.text, names[i % len(names)])
        for i, example in enumerate(found)
    ]


class Reference:
    """Autograd's directional derivatives of the float32 model, which programs are held against.

    Args:
        model: the torch model.
        bundle: any program of it, for the layout, the tokenizer's rules and the initial adapter.
        examples: one batch.
        directions: how many; their seeds are 0, 1, …
    """

    def __init__(self, model: Model, bundle: Bundle, examples: Sequence[Example], directions: int) -> None:
        tokenizer = Tokenizer(bundle.tokenizer_path, bundle.manifest.text)
        rows = bundle.manifest.chain.batch_examples
        given = ExampleSet(examples, bundle.known_labels, tokenizer, rows)
        (self.batch,) = given.batches(range(len(examples)))
        self.examples, self.directions = len(examples), directions
        initial, gradient = np.array(bundle.adapter), _gradient(model, bundle.adapter, self.batch)
        moved = initial
        last = gradient
        for _ in range(STEPS):
            moved = _step(moved, last, bundle.layout)
            last = _gradient(model, moved, self.batch)
        slopes = np.empty((2, directions))
        for seed in range(directions):
            z = philox.signs(seed, 0, bundle.layout.parameters)
            slopes[:, seed] = z @ gradient, z @ last
        self._starts = list(zip((initial, moved), slopes, strict=True))

    def curve(self, bundle: Bundle, progress: Callable[[str], None]) -> tuple[list[Point], float]:
        """(the correlations at every epsilon, a forward's time in ms on one thread) of a bundle's program.

        Raises:
            BundleError: a loss is not finite at any epsilon.
        """
        engine = Engine(bundle)
        segments = list(range(bundle.manifest.chain.segments + 1))
        directions = [Direction(seed, 1.0, [], segments) for seed in range(self.directions)]
        found: list[list[float]] = []
        started = time.perf_counter()
        for adapter, slopes in self._starts:
            engine.adapter[:] = adapter
            for epsilon in EPSILONS:
                progress(self._step(bundle, len(found), time.perf_counter() - started))
                rho = engine.measure([self.batch], directions, epsilon, segments).rho
                found.append([epsilon, _correlation(rho, slopes)])
        count = len(EPSILONS)
        points = [
            Point(epsilon, first, second)
            for (epsilon, first), (_, second) in zip(found[:count], found[count:], strict=True)
        ]
        return points, self._forward_ms(engine)

    def entry(self, points: Sequence[Point]) -> bundle_pb2.Fidelity:
        """The curve as the manifest holds it."""
        entry = bundle_pb2.Fidelity(
            directions=self.directions, examples=self.examples, epsilon=best(points).epsilon
        )
        for point in points:
            entry.points.add(
                epsilon=point.epsilon, initial_correlation=point.initial, moved_correlation=point.moved
            )
        return entry

    def _step(self, bundle: Bundle, done: int, taken_s: float) -> str:
        """What is being done, and how long it goes on."""
        steps = len(self._starts) * len(EPSILONS)
        text = f"measuring {bundle.manifest.precision}, {done + 1} of {steps}"
        return text + (f", about {taken_s / done * (steps - done) / 60:.0f} min left" if done else "")

    def _forward_ms(self, engine: Engine) -> float:
        times = []
        for _ in range(FORWARDS):
            started = time.perf_counter()
            engine.evaluate([self.batch])
            times.append((time.perf_counter() - started) * 1e3)
        return float(np.median(times))


def _gradient(model: Model, adapter: npt.NDArray[np.float32], batch: Any) -> npt.NDArray[np.float64]:
    model.load_adapter(adapter)
    loss, gradient = model.gradient(batch)
    if not np.isfinite(loss) or not np.isfinite(gradient).all():
        raise BundleError(
            "the float32 model's own loss is not finite on the calibration texts; other weights?"
        )
    return gradient.astype(np.float64)


def _step(
    adapter: npt.NDArray[np.float32], gradient: npt.NDArray[np.float64], layout: Layout
) -> npt.NDArray[np.float32]:
    """The adapter after a step down the gradient, the same root mean square for every tensor, on the grid."""
    moved = np.array(adapter)
    for tensor in layout.tensors:
        slope = gradient[tensor.span]
        size = float(np.sqrt(np.mean(slope**2)))
        if size > 0.0:
            stepped = adapter[tensor.span] - (STEP_SIZE / size) * slope
            moved[tensor.span] = round_to_grid(stepped, tensor.exponent)
    return moved


def _correlation(rho: npt.NDArray[np.float64], slopes: npt.NDArray[np.float64]) -> float:
    """Pearson's, to four places (the rest differs between processors); 0 where one of them never changes."""
    if np.ptp(rho) == 0.0 or np.ptp(slopes) == 0.0:
        return 0.0
    return round(float(np.corrcoef(rho, slopes)[0, 1]), 4)
