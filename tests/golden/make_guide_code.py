"""Writes coded integers and guides, and damaged ones: `python -m tests.golden.make_guide_code [FOLDER]`."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.zo import code, guide_code
from device_runtime.zo.errors import CodeError, ZoError
from tests.golden.blob import FOLDER, Blob
from tests.golden.slices import status_of

LARGEST = 2**31
Integers = NDArray[np.int32]


def integers() -> dict[str, Integers]:
    """Return arrays by name."""
    random = np.random.default_rng(61)
    lone = np.zeros(5000)
    lone[4321] = -LARGEST
    clustered = np.zeros(6000)
    clustered[4090:4110] = random.integers(-9, 10, 20)
    calm_then_wild = np.concatenate([random.integers(-1, 2, 4096), np.rint(np.exp(random.normal(2, 3, 900)))])
    made: dict[str, Any] = {
        "none": [],
        "one zero": [0],
        "one": [1],
        "minus one of three": [0, 0, -1],
        "odd": [3, -2, 0, 0, 1, 0, -1],
        "all zero": np.zeros(4097),
        "lone huge value": lone,
        "extremes": [LARGEST - 1, -LARGEST, 0, -LARGEST, 1, LARGEST - 1],
        "random 32 bits": random.integers(-LARGEST, LARGEST, 257),
        "sums about fifteen": np.repeat([7, 8, 15, 16, 17, 1], 5),
        "ramp": np.arange(-150, 150),
        "across chunks": clustered,
        "other alphas": calm_then_wild,
    }
    for count in (2, 31, 32, 33, 4095, 4096, 4097):
        made[f"sparse {count}"] = np.rint(
            random.laplace(scale=0.4, size=count) * (random.random(count) < 0.5)
        )
    return {name: np.array(values, np.int64).astype(np.int32) for name, values in made.items()}


def guides() -> dict[str, tuple[NDArray[np.float32], float]]:
    """Return values and step by name."""
    random = np.random.default_rng(62)
    normal = random.normal(size=3000) * np.repeat(np.exp(random.normal(size=30)), 100)
    spike = random.normal(size=64) * 1e-3
    spike[17] = -1e30
    smallest, largest = 2.0**-149, float(np.finfo(np.float32).max)
    made: dict[str, tuple[Any, float]] = {
        "none": ([], 1.0),
        "one": ([-3.25], 0.1),
        "all zero": (np.zeros(7), 1e-3),
        "both zeros": ([0.0, -0.0, 1.0, -0.0, -1.0], 0.7),
        "fine": (normal[:700], 0.01),
        "middling": (normal, 0.5),
        "coarse": (normal, 3.0),
        "edge of the dead zone": (np.array([0.64, 0.65, 0.66, 1.64, 1.65, -0.65, -1.65, 2.65]), 1.0),
        "spike": (spike, 1e22),
        "spike, step too small": (spike, 1e20),
        "subnormal": (smallest * random.integers(-9, 10, 50), smallest),
        "largest": ([largest, -largest, largest / 2], 1e37),
        "largest, upwards": ([largest, largest], 2.5e38),
        "infinite": ([1.0, np.inf], 1.0),
        "not a number": ([np.nan, 1.0], 1.0),
        "step of zero": ([1.0], 0.0),
        "negative step": ([1.0], -1.0),
        "step below float32": ([1.0], 1e-60),
        "step beyond float32": ([1.0], 1e60),
    }
    return {name: (np.array(values).astype(np.float32), step) for name, (values, step) in made.items()}


def damaged() -> list[tuple[str, str, bytes, int]]:
    """Return (what, name, bytes, count) of what both decoders must refuse."""
    random = np.random.default_rng(63)
    values = integers()["sparse 4097"]
    stream = code.encode_integers(values)
    cases = [
        ("integers", f"cut to {size}", stream[:size], values.size)
        for size in (1, 7, 8, 9, 40, len(stream) - 1)
    ]
    for place in (0, 8, len(stream) // 2, len(stream)):
        cases.append(
            ("integers", f"a byte more at {place}", stream[:place] + b"\0" + stream[place:], values.size)
        )
    for _ in range(40):
        flipped = bytearray(stream)
        place = int(random.integers(len(stream)))
        flipped[place] ^= 1 << int(random.integers(8))
        if _is_refused("integers", bytes(flipped), values.size):  # not a sign: nothing checks that
            cases.append(("integers", f"a bit of byte {place}", bytes(flipped), values.size))
    cases += [
        ("integers", f"{count} entries", stream, count)
        for count in (0, 1, values.size - 1, values.size + 4096)
    ]
    for name, tail in (
        ("a sum of 63 bits", b"\xff" * 16),
        ("random", random.bytes(200)),
        ("zeros", bytes(60)),
    ):
        cases.append(("integers", name, struct.pack("<2I", 1 << 16, 1 << 16) + tail, 100))
    positive = code.encode_integers(np.array([-LARGEST], np.int32))
    cases.append(("integers", "plus 2^31", _without_its_sign(positive), 1))
    return cases + _damaged_guides()


def _without_its_sign(stream: bytes) -> bytes:
    """The stream of -2^31 alone: 6 bits of length, 31 of zeros, 1 for the alphas, the sign as bit 38."""
    place = len(stream) - 1 - 38 // 8
    return stream[:place] + bytes([stream[place] ^ 1 << 38 % 8]) + stream[place + 1 :]


def _damaged_guides() -> list[tuple[str, str, bytes, int]]:
    values, step = guides()["coarse"]
    encoded = guide_code.encode(values, step)
    cases = [
        ("guide", f"cut to {size}", encoded[:size], values.size) for size in (0, 11, 12, len(encoded) - 1)
    ]
    cases += [("guide", f"{count} values", encoded, count) for count in (0, values.size + 1)]
    cases.append(("guide", "format 2", b"\x02" + encoded[1:], values.size))
    for bad in (0.0, -0.0, -1.0, float("inf"), float("nan")):
        other = encoded[:8] + struct.pack("<f", bad) + encoded[12:]
        cases.append(("guide", f"step {bad}", other, values.size))
    huge = encoded[:8] + struct.pack("<f", 3e38) + encoded[12:]
    cases.append(("guide", "infinite values", huge, values.size))
    return cases


def _is_refused(what: str, data: bytes, count: int) -> bool:
    try:
        (code.decode_integers if what == "integers" else guide_code.decode)(data, count)
    except CodeError:
        return True
    return False


def main(arguments: list[str]) -> None:
    """Write the files."""
    blob = Blob()

    def put(data: bytes) -> Any:
        return blob.put(np.frombuffer(data, np.uint8))

    for name, values in integers().items():
        stream = code.encode_integers(values)
        assert np.array_equal(code.decode_integers(stream, values.size), values)
        blob.cases.append(
            {"what": "integers", "name": name, "values": blob.put(values), "stream": put(stream)}
        )
    for name, (guide, step) in guides().items():
        case = {"what": "guide", "name": name, "values": blob.put(guide), "step": step}
        try:
            encoded = guide_code.encode(guide, step)
        except ZoError as error:
            blob.cases.append(case | {"status": status_of(error)})
            continue
        decoded = guide_code.decode(encoded, guide.size)
        blob.cases.append(case | {"status": "OK", "stream": put(encoded), "decoded": blob.put(decoded)})
    for what, name, data, count in damaged():
        assert _is_refused(what, data, count), name
        blob.cases.append({"what": f"damaged {what}", "name": name, "stream": put(data), "count": count})
    blob.write(Path(arguments[0]) if arguments else FOLDER, "guide_code")


if __name__ == "__main__":
    main(sys.argv[1:])
