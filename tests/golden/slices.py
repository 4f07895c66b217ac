"""A golden slice as the NumPy reference sees it: the second tensor of an adapter that begins with padding."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.zo.direction import Direction, Guide
from device_runtime.zo.errors import NotFinite, OutOfRange, ZoError
from device_runtime.zo.layout import Layout, LayoutTensor
from device_runtime.zo.spsa import Update

STATUSES = {NotFinite: "NOT_FINITE", OutOfRange: "OUT_OF_RANGE", ZoError: "BAD_ARGUMENT"}
SEGMENT = 1


def slice_layout(start: int, count: int, exponent: int) -> Layout:
    """Return a layout whose last tensor is the slice, active alone."""
    return Layout.build([("before", 0, (start,), 20), ("slice", SEGMENT, (count,), exponent)])


def whole(values: NDArray[np.float32] | None, layout: Layout) -> NDArray[np.float32] | None:
    """Return a slice's values as an array over the whole adapter, or None for None."""
    if values is None:
        return None
    padded = np.zeros(layout.parameters, np.float32)
    padded[layout.tensors[-1].span] = values
    return padded


def guides_of(guides: list[dict[str, Any]], layout: Layout) -> tuple[Guide, ...]:
    """Return golden guides ({"values", "coefficient"}) over the whole adapter."""
    made = []
    for guide in guides:
        values = whole(guide["values"], layout)
        assert values is not None
        made.append(Guide(values, guide["coefficient"]))
    return tuple(made)


def direction_of(case: dict[str, Any], layout: Layout) -> Direction:
    """Return a golden direction over the whole adapter."""
    guides = guides_of(case["guides"], layout)
    scale = whole(case["scale"], layout)
    return Direction(int(case["seed"], 16), case["isotropic_scale"], scale, guides, (SEGMENT,))


def update_of(case: dict[str, Any], layout: Layout) -> Update:
    """Return a golden update over the whole adapter."""
    directions = tuple(direction_of(direction, layout) for direction in case["directions"])
    coefficients = tuple(case["coefficients"])
    guides = guides_of(case["guides"], layout)
    return Update(case["epsilon"], int(case["update_seed"], 16), directions, coefficients, guides, (SEGMENT,))


def slice_of(layout: Layout) -> LayoutTensor:
    """Return the tensor that is the slice."""
    return layout.tensors[-1]


def status_of(error: ZoError) -> str:
    """Return the status that a kernel answers where the reference raises `error`."""
    return STATUSES[type(error)]
