"""From one adapter version to the next: replaying records, and deltas of grid steps.

A delta is, little-endian:

    bytes  0..7    magic "CLMDELTA"
    bytes  8..11   format, uint32: 2
    bytes 12..15   n, uint32
    bytes 16..47   SHA-256 of the adapter's float32 bytes before
    bytes 48..79   SHA-256 of the adapter's float32 bytes after
    bytes 80..     stream (see `code`) of the n differences, int32, in the layout's order

difference = (after - before) * 2^e, a whole number of magnitude below 2^24.

A version that arrives segment by segment has a piece for each: the stream of that segment's differences
alone, or of its after * 2^e, which needs no adapter before.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from device_runtime.zo.code import decode_integers, encode_integers
from device_runtime.zo.errors import CodeError, VersionError
from device_runtime.zo.grid import STEPS, from_steps, to_steps
from device_runtime.zo.layout import Layout, LayoutTensor
from device_runtime.zo.spsa import Update, apply_update

_MAGIC = b"CLMDELTA"
_FORMAT = 2
_HEADER = struct.Struct("<8sII32s32s")


def adapter_sha256(adapter: NDArray[np.float32]) -> bytes:
    """Return the SHA-256 of the adapter's little-endian float32 bytes: 32 raw bytes."""
    return hashlib.sha256(adapter.astype("<f4", copy=False).tobytes()).digest()


def apply_records(
    adapter: NDArray[np.float32], layout: Layout, updates: Iterable[Update]
) -> NDArray[np.float32]:
    """Return the adapter after replaying updates in order; the one handed in is left alone.

    Each version is a record; it must be replayed from the very version before it, because clamping and
    rounding depend on it.

    Raises NotFinite or OutOfRange: the caller drops the records and fetches a snapshot.
    """
    result = adapter.copy()
    for update in updates:
        apply_update(result, layout, update)
    return result


def encode_delta(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    layout: Layout,
    encode: Callable[[NDArray[np.int32]], bytes] = encode_integers,
) -> bytes:
    """Return the delta that leads from one adapter to another of the same layout.

    `encode` is the integers' encoder: this package's own, or its faster twin.

    Raises LayoutError when either is not of the layout: a mistake of the caller.
    """
    layout.check(before)
    layout.check(after)
    difference = _difference(before, after, layout.tensors)
    header = _HEADER.pack(_MAGIC, _FORMAT, layout.parameters, adapter_sha256(before), adapter_sha256(after))
    return header + encode(difference)


def decode_delta(
    delta: bytes,
    before: NDArray[np.float32],
    layout: Layout,
    decode: Callable[[bytes, int], NDArray[np.int32]] = decode_integers,
) -> NDArray[np.float32]:
    """Return the adapter that a delta leads to from `before`, which is left alone.

    `decode` is the integers' decoder: this package's own, or its faster twin. What is held depends on the
    layout alone, whatever the delta claims.

    Raises VersionError when the delta is damaged, or made for another adapter: the caller fetches a snapshot.
    """
    after_sha256 = _check_header(delta, before, layout)
    try:
        difference = decode(delta[_HEADER.size :], layout.parameters)
    except CodeError as error:
        raise VersionError("a delta does not hold its parameters' steps: fetch it again") from error
    after = _stepped(before, difference, layout.tensors)
    if adapter_sha256(after) != after_sha256:
        raise VersionError("a delta does not lead to the adapter it names: fetch a snapshot")
    return after


def encode_piece(
    before: NDArray[np.float32] | None,
    after: NDArray[np.float32],
    layout: Layout,
    segment: int,
    encode: Callable[[NDArray[np.int32]], bytes] = encode_integers,
) -> bytes:
    """Return the piece of one segment that leads from one adapter, or from none, to another; both (n,)."""
    return encode(_difference(before, after, layout.segment_tensors(segment)))


def decode_piece(
    piece: bytes,
    before: NDArray[np.float32] | None,
    layout: Layout,
    segment: int,
    decode: Callable[[bytes, int], NDArray[np.int32]] = decode_integers,
) -> NDArray[np.float32]:
    """Return the segment's values after it; `before` is the whole adapter, or None for a piece of itself.

    Raises VersionError when the piece is damaged. Whether it leads to the right adapter is for the whole's
    SHA-256 to say.
    """
    tensors = layout.segment_tensors(segment)
    try:
        difference = decode(piece, sum(tensor.count for tensor in tensors))
    except CodeError as error:
        raise VersionError("a version's piece does not hold its segment's steps: stream it again") from error
    return _stepped(before, difference, tensors)


def _difference(
    before: NDArray[np.float32] | None, after: NDArray[np.float32], tensors: Sequence[LayoutTensor]
) -> NDArray[np.int32]:
    """Grid steps of neighbouring tensors between two whole adapters, or from zero."""
    difference, start = np.empty(sum(tensor.count for tensor in tensors), np.int32), 0
    for tensor in tensors:
        steps = to_steps(after[tensor.span], tensor.exponent)
        if before is not None:
            steps -= to_steps(before[tensor.span], tensor.exponent)
        difference[start : start + tensor.count] = steps.astype(np.int32)
        start += tensor.count
    return difference


def _stepped(
    before: NDArray[np.float32] | None, difference: NDArray[np.int32], tensors: Sequence[LayoutTensor]
) -> NDArray[np.float32]:
    """The same backwards: these tensors' values after it."""
    values, start = np.empty(difference.size, dtype=np.float32), 0
    for tensor in tensors:
        steps = difference[start : start + tensor.count].astype(np.float64)
        if before is not None:
            steps += to_steps(before[tensor.span], tensor.exponent)
        if np.any(np.abs(steps) >= STEPS):
            raise VersionError(f"a version leads {tensor.name} out of its range: fetch a snapshot")
        values[start : start + tensor.count] = from_steps(steps, tensor.exponent)
        start += tensor.count
    return values


def _check_header(delta: bytes, before: NDArray[np.float32], layout: Layout) -> bytes:
    """Check everything before the compressed part; return the SHA-256 of the adapter that results."""
    if len(delta) < _HEADER.size:
        raise VersionError("a delta is truncated: fetch it again")
    magic, version, parameters, before_sha256, after_sha256 = _HEADER.unpack_from(delta)
    if magic != _MAGIC or version != _FORMAT:
        raise VersionError("this is no delta that this release reads: update it, or fetch a snapshot")
    if parameters != layout.parameters or before.shape != (layout.parameters,):
        raise VersionError(f"a delta has {parameters} parameters, not {layout.parameters}: fetch a snapshot")
    if before_sha256 != adapter_sha256(before):
        raise VersionError("a delta starts from another adapter than the one held: fetch a snapshot")
    return bytes(after_sha256)
