"""One segment of a guide in few bytes: a uniform quantiser with a dead zone, then the coder of `code`.

With q_i = sign(v_i) floor(|v_i| / step + (1 - DEAD_ZONE)), all in float64, an encoded segment is,
little-endian:

    byte  0        format: 1
    bytes 1..3     int8: where in their cells the values of magnitude 1, 2 and 3 or more lie, in 1/128 steps
    bytes 4..7     m, uint32
    bytes 8..11    step, float32, finite and positive
    bytes 12..     the stream of the m integers q (see `code`)

    decoded value = float32((128 |q| + cell of |q|) * (step / 128)) * sign(q),   +0.0 where q = 0

The first factor is a whole number that a float64 holds, the second is exact, and their product is rounded to
float64 and then to float32: the same bits everywhere. The cells' points are the means of what fell into them
(the centroids of Lloyd, 1982, quantised): the decoded vector is as near to the guide as these integers allow.
A dead zone wider than a step (Sullivan, 1996) costs some alignment and saves more bits.
"""

from __future__ import annotations

import math
import struct

import numpy as np
from numpy.typing import NDArray

from device_runtime.zo.code import decode_integers, encode_integers
from device_runtime.zo.errors import CodeError, NotFinite, OutOfRange

FORMAT = 1
HEADER_BYTES = 12
DEAD_ZONE = 0.65  # magnitudes below this many steps become 0
_HEADER = struct.Struct("<B3bIf")
_CELLS = 3
_PARTS = 128  # of a step
_LARGEST = 2**31 - 1


def encode(values: NDArray[np.float32], step: float) -> bytes:
    """Return the encoded float32 (m,). `step`, in the values' unit, is rounded to float32; it sets the size.

    Raises NotFinite for a value that is NaN or infinite, and OutOfRange for a step that is no positive
    float32 or of which a value has 2^31: the caller drops the guide, or takes a larger step.
    """
    with np.errstate(over="ignore"):
        step = float(np.float32(step))
    if not (math.isfinite(step) and step > 0.0):
        raise OutOfRange("a guide's step must be a positive float32: take a larger or smaller one")
    if not np.all(np.isfinite(values)):
        raise NotFinite("a guide contains NaN or infinity: drop it")
    exact = values.astype(np.float64)
    magnitudes = np.floor(np.abs(exact) / step + (1.0 - DEAD_ZONE))
    if np.any(magnitudes > _LARGEST):
        raise OutOfRange("a guide has values of 2^31 steps: take a larger step")
    whole = np.where(exact < 0.0, -magnitudes, magnitudes).astype(np.int32)
    cells = [_cell(exact, magnitudes, step, number) for number in range(1, _CELLS + 1)]
    return _HEADER.pack(FORMAT, *cells, values.size, step) + encode_integers(whole)


def _cell(exact: NDArray[np.float64], magnitudes: NDArray[np.float64], step: float, number: int) -> int:
    """Where the mean of a cell's values lies, in parts of a step from the whole step.

    A sum that must be the same in C++ is one of integers: each value counts in 1/128 steps, rounded down.
    """
    inside = magnitudes == number if number < _CELLS else magnitudes >= number
    count = int(np.count_nonzero(inside))
    if count == 0:
        return 0
    parts = np.floor((np.abs(exact[inside]) / step - magnitudes[inside]) * _PARTS + 0.5)
    mean = (2 * int(parts.sum()) + count) // (2 * count)
    return max(-_PARTS, min(_PARTS - 1, mean))


def decode(data: bytes, count: int) -> NDArray[np.float32]:
    """Return the float32 (count,) of an encoded segment.

    Raises CodeError when it is damaged, of another format or of another number of values: the caller drops it
    and fetches it again.
    """
    if len(data) < HEADER_BYTES:
        raise CodeError("an encoded guide is truncated: fetch it again")
    version, *cells, named, step = _HEADER.unpack_from(data)
    if version != FORMAT:
        raise CodeError(f"guide format {version} is not known here: update this program")
    if named != count:
        raise CodeError(f"an encoded guide has {named} values, not {count}: fetch it again")
    if not (math.isfinite(step) and step > 0.0):
        raise CodeError("an encoded guide has no positive step: fetch it again")
    whole = decode_integers(data[HEADER_BYTES:], count).astype(np.int64)
    magnitudes = np.abs(whole)
    cell = np.array([0, *cells])[np.minimum(magnitudes, _CELLS)]
    with np.errstate(over="ignore"):
        decoded = ((_PARTS * magnitudes + cell) * (step / _PARTS)).astype(np.float32)
    if not np.all(np.isfinite(decoded)):
        raise CodeError("an encoded guide decodes to values that are not finite: fetch it again")
    signed: NDArray[np.float32] = np.where(whole < 0, -decoded, decoded)
    return signed
