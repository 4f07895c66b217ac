"""Fitting the adapter by back-propagation on examples that the cloud holds: warm start, baselines.

    minimise  mean loss(theta) + penalty / 2 * |(theta - start) / s|^2    over the active segments

by L-BFGS in the coordinates (theta - start) / s (two-loop recursion: J. Nocedal, "Updating quasi-Newton
matrices with limited storage", Math. Comp. 35, 1980). The penalty is chosen on examples that were held out
from the fit, so a few public examples are not overfitted. The same function on public and private examples
together is the oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cloud_service.directions import Float32, Float64
from cloud_service.guides import Objective
from device_runtime.zo.grid import STEPS, round_to_grid
from device_runtime.zo.layout import Layout

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_FOLDS = 5
_STEPS = 40
_MEMORY = 10
# Of the grid's bound: room for training that starts from the fit.
_LARGEST_FRACTION = 0.5

Loss = Callable[[Float64], tuple[float, Float64]]


@dataclass(frozen=True)
class Fit:
    """A fitted adapter on the grid, (n,), and how its penalty was chosen: accuracy on held-out examples."""

    adapter: Float32
    penalty: float
    held_out_accuracy: float


def fit(
    objective: Objective,
    start: Float32,
    scale: Float32 | None,
    penalties: Sequence[float] = PENALTIES,
    folds: int = _FOLDS,
) -> Fit:
    """Chooses the penalty by cross-validation (best accuracy, then loss), then fits all examples with it.

    With fewer examples than twice the folds there is nothing to hold out: the largest penalty is taken.
    Deterministic: example i is held out in fold i % folds.
    """
    everything = range(objective.examples)
    ladder = sorted(penalties, reverse=True)  # each fit starts from the one before it, which is close
    correct, losses = dict.fromkeys(ladder, 0), dict.fromkeys(ladder, 0.0)
    for fold in range(folds if objective.examples >= 2 * folds else 0):
        inside = [row for row in everything if row % folds != fold]
        outside = [row for row in everything if row % folds == fold]
        phi = None
        for penalty in ladder:
            phi, adapter = _minimise(objective, start, scale, penalty, inside, phi)
            loss, right, count = objective.score(adapter, outside)
            correct[penalty] += right
            losses[penalty] += loss * count
    best = max(ladder, key=lambda penalty: (correct[penalty], -losses[penalty], penalty))
    _, adapter = _minimise(objective, start, scale, best, everything, None)
    return Fit(adapter, best, correct[best] / objective.examples)


def fit_head_first(
    over: Callable[[tuple[int, ...]], Objective],
    segments: tuple[int, ...],
    head: int,
    start: Float32,
    scale: Float32 | None,
) -> Fit:
    """Fits the active segments; where they are more than the head, after a fit of the head alone.

    The head alone costs little, so it chooses the penalty: thirty fits of the whole chain take many minutes.
    The first fit is also what lets a chain's global loss say something before its last stage: an auxiliary
    branch of untrained bottlenecks changes nothing that it is given.

    Args:
        over: makes the objective of the examples over some segments.
        segments: the active ones.
        head: its number, whether it is active or not.
        start, scale: float32 (n,).
    """
    if head not in segments or segments == (head,):
        return fit(over(segments), start, scale)
    of_head = fit(over((head,)), start, scale)
    return fit(over(segments), of_head.adapter, scale, (of_head.penalty,), folds=0)


def on_grid(values: Float64, layout: Layout) -> Float32:
    """The nearest adapter on the layout's grid, each value cut to half of its tensor's bound."""
    adapter = np.zeros(layout.parameters, dtype=np.float32)
    for tensor in layout.tensors:
        bound = _LARGEST_FRACTION * STEPS * 2.0**-tensor.exponent
        adapter[tensor.span] = round_to_grid(np.clip(values[tensor.span], -bound, bound), tensor.exponent)
    return adapter


def _minimise(
    objective: Objective,
    start: Float32,
    scale: Float32 | None,
    penalty: float,
    rows: Sequence[int],
    phi: Float64 | None,
) -> tuple[Float64, Float32]:
    """The minimum, as phi = (theta - start) / s on the active segments and as an adapter on the grid."""
    active = objective.active
    s = np.ones(active.size) if scale is None else scale[active].astype(np.float64)

    def adapter(phi: Float64) -> Float64:
        theta = start.astype(np.float64)
        theta[active] += s * phi
        return theta

    def loss(phi: Float64) -> tuple[float, Float64]:
        value, gradient = objective.loss_and_gradient(adapter(phi).astype(np.float32), rows)
        return value + penalty / 2.0 * float(phi @ phi), gradient[active] * s + penalty * phi

    best = lbfgs(loss, np.zeros(active.size) if phi is None else phi)
    return best, on_grid(adapter(best), objective.layout)


def lbfgs(loss: Loss, start: Float64, steps: int = _STEPS, tolerance: float = 1e-3) -> Float64:
    """A minimiser of a smooth function given as (value, gradient); stops when |gradient| < tolerance.

    Step lengths are halved until the value falls enough (Armijo, 1e-4); a pair without positive curvature is
    left out of the memory.
    """
    x, (value, gradient) = start, loss(start)
    pairs: list[tuple[Float64, Float64]] = []
    for _ in range(steps):
        if float(np.sqrt(gradient @ gradient)) < tolerance:
            break
        move = _descent(gradient, pairs)
        slope, length = float(move @ gradient), 1.0
        while True:
            ahead = x + length * move
            new_value, new_gradient = loss(ahead)
            if new_value <= value + 1e-4 * length * slope or length < 1e-6:
                break
            length /= 2.0
        if new_value >= value:
            break
        moved, turned = ahead - x, new_gradient - gradient
        if float(moved @ turned) > 1e-10 * float(turned @ turned):
            pairs = [*pairs, (moved, turned)][-_MEMORY:]
        x, value, gradient = ahead, new_value, new_gradient
    return x


def _descent(gradient: Float64, pairs: Sequence[tuple[Float64, Float64]]) -> Float64:
    """-H grad by the two-loop recursion; at first a step of unit length at most."""
    if not pairs:
        return -gradient / max(1.0, float(np.sqrt(gradient @ gradient)))
    q, kept = gradient, []
    for moved, turned in reversed(pairs):
        alpha = float(moved @ q) / float(moved @ turned)
        kept.append(alpha)
        q = q - alpha * turned
    moved, turned = pairs[-1]
    q = q * (float(moved @ turned) / float(turned @ turned))
    for (moved, turned), alpha in zip(pairs, reversed(kept), strict=True):
        q = q + moved * (alpha - float(turned @ q) / float(moved @ turned))
    return -q
