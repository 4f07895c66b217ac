"""Other ways to send a guide, for compression.py: each gives the bytes sent and the vector received."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Sent = tuple[int, Float64]  # bytes, and what arrives


def zlib_of_float32(segments: Sequence[Float32]) -> Sent:
    """The authors' own code: zlib of the float32 bytes. Lossless."""
    return sum(len(zlib.compress(values.tobytes())) for values in segments), _whole(segments)


def float16(segments: Sequence[Float32]) -> Sent:
    """Half precision of the values over the segment's largest magnitude, which is sent too."""
    parts = [
        _over(values, 1.0).astype(np.float16).astype(np.float64) * _largest(values) for values in segments
    ]
    return sum(2 * values.size + 4 for values in segments), np.concatenate(parts)


def int8(segments: Sequence[Float32]) -> Sent:
    """A byte a value over the segment's largest magnitude, which is sent too."""
    parts = [np.rint(_over(values, 127.0)) * _largest(values) / 127.0 for values in segments]
    return sum(values.size + 4 for values in segments), np.concatenate(parts)


def int8_and_zlib(segments: Sequence[Float32]) -> Sent:
    """The same bytes through zlib."""
    whole = [np.rint(_over(values, 127.0)).astype(np.int8).tobytes() for values in segments]
    return sum(len(zlib.compress(data, 9)) + 4 for data in whole), int8(segments)[1]


def signs(segments: Sequence[Float32]) -> Sent:
    """One bit a value and the mean magnitude of each segment (signSGD with a scale, arXiv 1802.04434)."""
    parts = [
        np.where(values < 0, -1.0, 1.0) * np.mean(np.abs(values), dtype=np.float64) for values in segments
    ]
    return sum((values.size + 7) // 8 + 4 for values in segments), np.concatenate(parts)


def largest(share: float) -> Callable[[Sequence[Float32]], Sent]:
    """Top-k: the largest magnitudes of the whole guide, each as a uint32 place and a half-precision value."""

    def send(segments: Sequence[Float32]) -> Sent:
        values = _whole(segments)
        kept = max(1, round(share * values.size))
        places = np.argpartition(np.abs(values), -kept)[-kept:]
        received = np.zeros(values.size)
        received[places] = _over(values[places], 1.0).astype(np.float16) * _largest(values)
        return 6 * kept + 4, received

    return send


PEERS: dict[str, Callable[[Sequence[Float32]], Sent]] = {
    "zlib of float32": zlib_of_float32,
    "float16": float16,
    "int8": int8,
    "int8 and zlib": int8_and_zlib,
    "sign and scale": signs,
    **{f"largest {share:.1%}": largest(share) for share in (0.002, 0.01, 0.05, 0.2)},
}


def cosine(sent: NDArray[np.floating], received: NDArray[np.floating]) -> float:
    """Between what was sampled and what arrived; 0 where nothing did."""
    first, second = sent.astype(np.float64), received.astype(np.float64)
    length = float(np.sqrt(np.sum(first * first) * np.sum(second * second)))
    return float(np.sum(first * second)) / length if length > 0.0 else 0.0


def _whole(segments: Sequence[Float32]) -> Float64:
    return np.concatenate(segments).astype(np.float64)


def _largest(values: NDArray[np.floating]) -> float:
    return float(np.max(np.abs(values))) or 1.0


def _over(values: NDArray[np.floating], top: float) -> Float64:
    """Values with their largest magnitude at `top`."""
    return values.astype(np.float64) * (top / _largest(values))
