"""A byte form for what a round must remember: a JSON header, then raw little-endian arrays; never unpickled.

    bytes 0..7    the header's length, unsigned little-endian
    header        UTF-8 JSON: {"arrays": [[name, dtype, count], ...], "fields": {...}}, keys sorted
    rest          the arrays' bytes, in the header's order

Equal contents give equal bytes, so a stored round can be compared by its hash. JSON keeps float64 exactly:
Python writes the shortest decimal that reads back as the same double.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES: dict[str, np.dtype[Any]] = {"<f4": np.dtype("<f4"), "<f8": np.dtype("<f8")}


def pack(fields: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Fields that JSON can hold, and one-dimensional float arrays, as bytes."""
    listed = [(name, arrays[name]) for name in sorted(arrays)]
    header = {
        "arrays": [[name, array.dtype.newbyteorder("<").str, int(array.size)] for name, array in listed],
        "fields": fields,
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    body = b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for _, array in listed)
    return len(text).to_bytes(8, "little") + text + body


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The fields and arrays that `pack` was given.

    Raises ValueError when the bytes are truncated or not of this form: the caller's store is damaged.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 + length:
        raise ValueError("a stored round is truncated: restore the service's folder from a copy")
    header = json.loads(data[8 : 8 + length])
    arrays: dict[str, NDArray[Any]] = {}
    offset = 8 + length
    for name, dtype_name, count in header["arrays"]:
        dtype = _DTYPES[dtype_name]
        end = offset + dtype.itemsize * int(count)
        if end > len(data):
            raise ValueError("a stored round is truncated: restore the service's folder from a copy")
        arrays[name] = np.frombuffer(data[offset:end], dtype=dtype).copy()
        offset = end
    if offset != len(data):
        raise ValueError("a stored round has bytes past its end: restore the service's folder from a copy")
    return dict(header["fields"]), arrays


def plain(value: Any) -> Any:
    """Bytes as hex and tuples as lists, all the way down: what JSON can hold."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value
