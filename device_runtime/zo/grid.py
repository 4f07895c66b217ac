"""The grid: a tensor with exponent e holds multiples of 2^-e, less than 2^23 of them in magnitude.

On it float32 addition is exact, so `+k, -2k, +k` restores every bit: |theta| + |k| < 2^24 grid steps, and
float32 holds every integer up to 2^24.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from device_runtime.zo.errors import LayoutError, OutOfRange

DEFAULT_EXPONENT = 20
MIN_EXPONENT = -100
MAX_EXPONENT = 100
STEPS = 2**23  # every value, in grid steps, is smaller than this in magnitude
_HEADROOM = 8  # a fresh tensor may grow this much before it meets the bound


def choose_exponent(max_magnitude: float) -> int:
    """Return the largest exponent e with 2^(23-e) >= 8 * max_magnitude, at most the default 20.

    `max_magnitude` is max|theta| over the tensor, in the tensor's own unit.

    Raises OutOfRange when it is not finite, or too large for any exponent: the caller refuses the tensor.
    """
    if not math.isfinite(max_magnitude) or max_magnitude < 0:
        raise OutOfRange(f"no grid holds a largest magnitude of {max_magnitude}: repair the tensor")
    if max_magnitude == 0:
        return DEFAULT_EXPONENT
    mantissa, power = math.frexp(_HEADROOM * max_magnitude)  # mantissa in [1/2, 1)
    ceil_log2 = power - 1 if mantissa == 0.5 else power
    exponent = min(DEFAULT_EXPONENT, 23 - ceil_log2)
    if exponent < MIN_EXPONENT:
        raise OutOfRange(f"no grid holds a largest magnitude of {max_magnitude:g}: scale the tensor down")
    return exponent


def to_steps(values: NDArray[np.float32], exponent: int) -> NDArray[np.float64]:
    """Return t = values * 2^exponent, exactly. Shapes: (n,) float32 -> (n,) float64."""
    return values.astype(np.float64) * math.ldexp(1.0, exponent)


def from_steps(steps: NDArray[np.float64], exponent: int) -> NDArray[np.float32]:
    """Return steps * 2^-exponent as float32, with zero as +0.0. Exact when |steps| <= 2^24 are whole
    numbers."""
    return (steps * math.ldexp(1.0, -exponent) + 0.0).astype(np.float32)


def round_to_grid(values: NDArray[np.floating], exponent: int) -> NDArray[np.float32]:
    """Return the grid values nearest to `values`: rint(values * 2^e) * 2^-e, half to even, zero as +0.0.

    Shapes: any -> the same shape, float32.

    Raises OutOfRange when a value is not finite or rounds to 2^23 steps or more: the caller takes a smaller
    exponent.
    """
    steps = np.rint(values.astype(np.float64) * math.ldexp(1.0, exponent))
    if not np.all(np.abs(steps) < STEPS):
        raise OutOfRange(f"a value is not below 2^{23 - exponent}: use a grid exponent below {exponent}")
    return from_steps(steps, exponent)


def check_grid(values: NDArray[np.float32], exponent: int, name: str = "tensor") -> None:
    """Accept values that are finite, below the bound, on the grid and not -0.0.

    -0.0 is refused because -0.0 + k - k is +0.0: it would not survive a restore.

    Raises LayoutError, naming the tensor and the first rule that is broken: the caller refuses the adapter.
    """
    if not np.all(np.isfinite(values)):
        raise LayoutError(f"{name} contains NaN or infinity: use another adapter")
    steps = to_steps(values, exponent)
    if not np.all(np.abs(steps) < STEPS):
        raise LayoutError(f"{name} has a value of 2^{23 - exponent} or more: choose a smaller grid exponent")
    if not np.all(steps == np.rint(steps)):
        raise LayoutError(f"{name} has a value that is no multiple of 2^-{exponent}: round it to the grid")
    if np.any(np.signbit(values) & (values == 0)):
        raise LayoutError(f"{name} contains -0.0, which a restore would not keep: write zero as +0.0")
