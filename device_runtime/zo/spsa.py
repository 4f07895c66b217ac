"""Perturb, measure, restore, update: the slow, readable twin of the local update, over any loss.

Estimator: rho = (L(theta + epsilon z') - L(theta - epsilon z')) / (2 epsilon), the projection of the gradient
on z' (J. C. Spall, "Multivariate stochastic approximation using a simultaneous perturbation gradient
approximation", IEEE TAC 37(3), 1992). The adapter is perturbed in place and restored bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_runtime.zo.direction import Direction, Guide, check, check_epsilon, rounded, rounded_tensor
from device_runtime.zo.errors import NotFinite, ZoError
from device_runtime.zo.grid import STEPS, from_steps, to_steps
from device_runtime.zo.layout import Layout, LayoutTensor
from device_runtime.zo.philox import half_words

Loss = Callable[[NDArray[np.float32]], float]


@dataclass(frozen=True)
class Update:
    """One step of the adapter: theta + sum_j coefficient_j * z'_j + sum_k c_k * u_k, rounded stochastically.

    `coefficients` has one entry a direction; `update_seed` keys the rounding; parameters outside
    `active_segments` (None: all) do not move.
    """

    epsilon: float
    update_seed: int
    directions: tuple[Direction, ...]
    coefficients: tuple[float, ...]
    guides: tuple[Guide, ...] = ()
    active_segments: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.coefficients) != len(self.directions):
            counts = f"{len(self.coefficients)} coefficients for {len(self.directions)} directions"
            raise ZoError(f"an update has {counts}: send one each")
        scalars = [*self.coefficients, *(guide.coefficient for guide in self.guides)]
        if not all(math.isfinite(scalar) for scalar in scalars):
            raise NotFinite("a coefficient of an update is not finite: drop the update")
        check_epsilon(self.epsilon)

    def is_active(self, segment: int) -> bool:
        """Whether the parameters of a segment move."""
        return self.active_segments is None or segment in self.active_segments


def perturb(adapter: NDArray[np.float32], layout: Layout, k: NDArray[np.float64], multiplier: int) -> None:
    """Add multiplier * k grid steps to the adapter, in place: theta_i += (multiplier * k_i) * 2^-e.

    Exact while |theta| + |k| stays below 2^24 grid steps, as it does after `check` and a multiplier of +1,
    -2, +1.
    """
    for tensor in layout.tensors:
        adapter[tensor.span] += from_steps(multiplier * k[tensor.span], tensor.exponent)


def projected_gradient(
    loss: Loss, adapter: NDArray[np.float32], layout: Layout, direction: Direction, epsilon: float
) -> float:
    """Return rho along one direction; the adapter is the same after it, bit for bit, also when the loss
    raises.

    `loss` gets the perturbed adapter and answers the mean loss in nats; rho is in nats a unit of z'.

    Raises NotFinite for a loss that is not, BelowGrid or OutOfRange for the direction: the caller reports
    which.
    """
    check(direction, layout, epsilon)
    k = rounded(direction, layout, epsilon)
    position = 0
    try:
        perturb(adapter, layout, k, +1)
        position = +1
        loss_plus = loss(adapter)
        perturb(adapter, layout, k, -2)
        position = -1
        loss_minus = loss(adapter)
    finally:
        if position:
            perturb(adapter, layout, k, -position)
    rho = (loss_plus - loss_minus) / (2.0 * epsilon)
    if not math.isfinite(rho):
        raise NotFinite("the loss is not finite: use a smaller epsilon or learning rate")
    return rho


def apply_update(adapter: NDArray[np.float32], layout: Layout, update: Update) -> int:
    """Step the adapter in place and return how many parameters were clamped at the bound.

    x = sum_j (coefficient_j / epsilon) * k_j + sum_k (c_k * 2^e) * u_k, in this order from 0.0;
    d = floor(x + (b + 1/2) / 65536) with b the parameter's 16 random bits; t = theta * 2^e + d, clamped to
    [-(2^23 - 1), 2^23 - 1]; theta = t * 2^-e. So E[d] = x up to 2^-17: steps below the grid do not vanish.

    Raises NotFinite or OutOfRange before anything is written: the caller drops the update.
    """
    active = [tensor for tensor in layout.tensors if update.is_active(tensor.segment)]
    steps = [_exact_steps(tensor, update) for tensor in active]
    clamped = 0
    for tensor, x in zip(active, steps, strict=True):
        bits = half_words(update.update_seed, tensor.offset, tensor.count).astype(np.float64)
        moved = np.floor(x + (bits + 0.5) / 65536.0)
        target = to_steps(adapter[tensor.span], tensor.exponent) + moved
        clamped += int(np.count_nonzero(np.abs(target) >= STEPS))
        adapter[tensor.span] = from_steps(np.clip(target, -(STEPS - 1.0), STEPS - 1.0), tensor.exponent)
    return clamped


def local_update(
    loss: Loss,
    adapter: NDArray[np.float32],
    layout: Layout,
    directions: Sequence[Direction],
    epsilon: float,
    learning_rate: float,
    update_seed: int,
    wire_form: Callable[[float], float] = float,
) -> list[float]:
    """Measure every direction, then step by -learning_rate * mean_j(rho_j z'_j); return the rho in wire form.

    `wire_form` is what happens to a scalar before it leaves (clip, noise, float32): the step uses only its
    result. With learning_rate 0 the adapter is the same after it, bit for bit.

    Raises what projected_gradient and apply_update raise, with the adapter unchanged: the caller reports
    which.
    """
    rhos = [
        wire_form(projected_gradient(loss, adapter, layout, direction, epsilon)) for direction in directions
    ]
    if learning_rate > 0 and rhos:
        coefficients = tuple(-learning_rate * rho / len(rhos) for rho in rhos)
        apply_update(adapter, layout, Update(epsilon, update_seed, tuple(directions), coefficients))
    return rhos


def _exact_steps(tensor: LayoutTensor, update: Update) -> NDArray[np.float64]:
    """Return x of one tensor, in grid steps. Shapes: -> (tensor.count,) float64."""
    x = np.zeros(tensor.count)
    with np.errstate(over="ignore", invalid="ignore"):  # checked below
        for direction, coefficient in zip(update.directions, update.coefficients, strict=True):
            if direction.is_active(tensor.segment):
                x = x + (coefficient / update.epsilon) * rounded_tensor(direction, tensor, update.epsilon)
        for guide in update.guides:
            weight = guide.coefficient * math.ldexp(1.0, tensor.exponent)
            x = x + weight * guide.values[tensor.span].astype(np.float64)
    if not np.all(np.isfinite(x)):
        raise NotFinite(f"an update of {tensor.name} is not finite: drop its guide or lower the rate")
    return x
