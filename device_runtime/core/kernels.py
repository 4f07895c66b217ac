"""The C++ kernels behind the signatures of device_runtime.zo: the same bits, much faster.

For whoever holds an adapter without a program: the cloud's replay of records, and the tests. A device's own
local update runs inside Core.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from device_runtime.core import _core
from device_runtime.zo import version
from device_runtime.zo.direction import Direction, Guide, refuse_below_grid
from device_runtime.zo.errors import CodeError, NotFinite, OutOfRange, ZoError
from device_runtime.zo.layout import Layout, LayoutTensor
from device_runtime.zo.spsa import Update

_NO_LANES = (0.0,) * 8
_ERRORS: dict[_core.Status, Callable[[str], ZoError]] = {
    _core.Status.NOT_FINITE: NotFinite,
    _core.Status.OUT_OF_RANGE: OutOfRange,
}


def perturb(
    adapter: NDArray[np.float32], layout: Layout, direction: Direction, epsilon: float, multiplier: int
) -> None:
    """Add multiplier * k grid steps in place; multiplier is +1, -1, +2 or -2. `check` comes first."""
    for tensor in layout.tensors:
        if direction.is_active(tensor.segment):
            of_slice = slice_direction(direction, tensor)
            theta = adapter[tensor.span]
            status = _core.perturb(theta, tensor.offset, tensor.exponent, epsilon, of_slice, multiplier)
            _raise_unless_ok(status, tensor)


def squared_norms(direction: Direction, layout: Layout, epsilon: float) -> tuple[float, float]:
    """Return |epsilon (z' - z)|^2 and |epsilon z|^2, as device_runtime.zo.direction does.

    Raises NotFinite or OutOfRange: the caller refuses the task.
    """
    error = norm = 0.0
    for tensor in layout.tensors:
        if direction.is_active(tensor.segment):
            of_slice = slice_direction(direction, tensor)
            status, lanes_error, lanes_norm = _core.check_direction(
                tensor.offset, tensor.count, tensor.exponent, epsilon, of_slice, _NO_LANES, _NO_LANES
            )
            _raise_unless_ok(status, tensor)
            error, norm = _core.add_lanes(lanes_error, lanes_norm, tensor.exponent, error, norm)
    return error, norm


def check(direction: Direction, layout: Layout, epsilon: float) -> None:
    """Accept a direction that stays in range and keeps |z' - z| <= 0.02 |z|.

    Raises NotFinite, OutOfRange, or BelowGrid with what would do: the caller refuses the task.
    """
    error, norm = squared_norms(direction, layout, epsilon)
    if _core.judge_direction(error, norm) is not _core.Status.OK:
        refuse_below_grid(lambda larger: squared_norms(direction, layout, larger), epsilon)


def apply_update(adapter: NDArray[np.float32], layout: Layout, update: Update) -> int:
    """Step the adapter in place and return how many parameters were clamped, as device_runtime.zo.spsa does.

    Raises NotFinite or OutOfRange before anything is written: the caller drops the update.
    """
    active = [tensor for tensor in layout.tensors if update.is_active(tensor.segment)]
    steps = [_slice_step(update, tensor) for tensor in active]
    for tensor, (directions, coefficients, guides) in zip(active, steps, strict=True):
        status = _core.check_update(
            tensor.offset,
            tensor.count,
            tensor.exponent,
            update.epsilon,
            update.update_seed,
            directions,
            coefficients,
            guides,
        )
        _raise_unless_ok(status, tensor)
    clamped = 0
    for tensor, (directions, coefficients, guides) in zip(active, steps, strict=True):
        status, here = _core.update(
            adapter[tensor.span],
            tensor.offset,
            tensor.exponent,
            update.epsilon,
            update.update_seed,
            directions,
            coefficients,
            guides,
        )
        _raise_unless_ok(status, tensor)
        clamped += here
    return clamped


def slice_direction(direction: Direction, tensor: LayoutTensor) -> _core.SliceDirection:
    """Return a direction on one tensor, as the kernels take it. It views scale and guides: no copy."""
    scale = None if direction.scale is None else direction.scale[tensor.span]
    guides = _slice_guides(direction.guides, tensor)
    return _core.SliceDirection(
        direction.seed_in(tensor.segment), direction.isotropic_scale, scale, guides, tensor.count
    )


def _slice_guides(guides: tuple[Guide, ...], tensor: LayoutTensor) -> list[tuple[NDArray[np.float32], float]]:
    return [(guide.values[tensor.span], guide.coefficient) for guide in guides]


def _slice_step(
    update: Update, tensor: LayoutTensor
) -> tuple[list[_core.SliceDirection], list[float], list[tuple[NDArray[np.float32], float]]]:
    active = [
        (slice_direction(direction, tensor), coefficient)
        for direction, coefficient in zip(update.directions, update.coefficients, strict=True)
        if direction.is_active(tensor.segment)
    ]
    guides = _slice_guides(update.guides, tensor)
    return [direction for direction, _ in active], [coefficient for _, coefficient in active], guides


def _raise_unless_ok(status: _core.Status, tensor: LayoutTensor) -> None:
    if status is not _core.Status.OK:
        error = _ERRORS.get(status, ZoError)
        raise error(f"{tensor.name}: {_core.message(status)}")


def encode_integers(values: NDArray[np.int32]) -> bytes:
    """Return the stream of int32 (m,), as device_runtime.zo.code does: the same bytes."""
    return _core.encode_integers(np.ascontiguousarray(values))


def decode_integers(data: bytes, count: int) -> NDArray[np.int32]:
    """Return the int32 (count,) of a stream, as device_runtime.zo.code does.

    Raises CodeError when the stream is damaged: the caller fetches it again.
    """
    values = np.empty(count, np.int32)
    _raise_unless_decoded(_core.decode_integers(data, values))
    return values


def encode_delta(before: NDArray[np.float32], after: NDArray[np.float32], layout: Layout) -> bytes:
    """Return the delta between two adapters, as device_runtime.zo.version does.

    Raises LayoutError when either is not of the layout: a mistake of the caller.
    """
    return version.encode_delta(before, after, layout, encode_integers)


def decode_delta(delta: bytes, before: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
    """Return the adapter that a delta leads to, as device_runtime.zo.version does.

    Raises VersionError when the delta is damaged, or made for another adapter: the caller fetches a snapshot.
    """
    return version.decode_delta(delta, before, layout, decode_integers)


def encode_piece(
    before: NDArray[np.float32] | None, after: NDArray[np.float32], layout: Layout, segment: int
) -> bytes:
    """Return the piece of one segment that leads to an adapter, as device_runtime.zo.version does."""
    return version.encode_piece(before, after, layout, segment, encode_integers)


def decode_piece(
    piece: bytes, before: NDArray[np.float32] | None, layout: Layout, segment: int
) -> NDArray[np.float32]:
    """Return the segment's values after a piece, as device_runtime.zo.version does.

    Raises VersionError when the piece is damaged: the caller streams it again.
    """
    return version.decode_piece(piece, before, layout, segment, decode_integers)


def encode_guide(values: NDArray[np.float32], step: float) -> bytes:
    """Return a segment of a guide, encoded as device_runtime.zo.guide_code does: the same bytes.

    Raises NotFinite or OutOfRange: the caller drops the guide, or takes a larger step.
    """
    status, encoded = _core.encode_guide(np.ascontiguousarray(values), step)
    if status is _core.Status.OUT_OF_RANGE:
        raise OutOfRange(
            "a guide has values of 2^31 steps, or its step is no positive float32: change the step"
        )
    if status is not _core.Status.OK:
        raise _ERRORS.get(status, ZoError)(_core.message(status))
    return encoded


def decode_guide(data: bytes, count: int) -> NDArray[np.float32]:
    """Return the float32 (count,) of an encoded segment, as device_runtime.zo.guide_code does: the same bits.

    Raises CodeError when it is damaged or of another number of values: the caller fetches it again.
    """
    values = np.empty(count, np.float32)
    _raise_unless_decoded(_core.decode_guide(data, values))
    return values


def _raise_unless_decoded(status: _core.Status) -> None:
    if status is not _core.Status.OK:
        raise CodeError(_core.message(status))
