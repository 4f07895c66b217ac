"""The coder of integers and guides, in NumPy and in C++: golden files, round trips, sizes, damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.core import kernels
from device_runtime.zo import code, guide_code
from device_runtime.zo.code_tables import COSTS, FREQUENCIES, TOTAL
from device_runtime.zo.errors import CodeError, NotFinite, OutOfRange
from tests.golden import make_guide_code
from tests.golden.blob import FOLDER, read_cases
from tests.golden.slices import status_of

Integers = NDArray[np.int32]
Float32 = NDArray[np.float32]
CASES = read_cases("guide_code")
ENCODERS: list[Callable[[Integers], bytes]] = [code.encode_integers, kernels.encode_integers]
DECODERS: list[Callable[[bytes, int], Integers]] = [code.decode_integers, kernels.decode_integers]
GUIDE_ENCODERS: list[Callable[[Float32, float], bytes]] = [guide_code.encode, kernels.encode_guide]
GUIDE_DECODERS: list[Callable[[bytes, int], Float32]] = [guide_code.decode, kernels.decode_guide]


def cases(what: str) -> list[dict[str, Any]]:
    return [case for case in CASES if case["what"] == what]


def laplacian(count: int, scale: float, seed: int = 0) -> Integers:
    """Integers whose spread changes by a factor of e every fifty entries, more or less."""
    random = np.random.default_rng(seed)
    spread = np.repeat(np.exp(random.normal(size=count // 50 + 1)), 50)[:count]
    values = np.rint(random.laplace(size=count) * spread * scale)
    return np.clip(values, -(2**31), 2**31 - 1).astype(np.int32)


def test_the_reference_still_writes_the_golden_files(tmp_path: Path) -> None:
    make_guide_code.main([str(tmp_path)])
    for name in ("guide_code.json", "guide_code.bin"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("case", cases("integers"), ids=lambda case: case["name"])
def test_golden_integers(case: dict[str, Any]) -> None:
    stream = case["stream"].tobytes()
    for encode in ENCODERS:
        assert encode(case["values"]) == stream
    for decode in DECODERS:
        assert np.array_equal(decode(stream, case["values"].size), case["values"])


@pytest.mark.parametrize("case", cases("guide"), ids=lambda case: case["name"])
def test_golden_guides(case: dict[str, Any]) -> None:
    for encode in GUIDE_ENCODERS:
        if case["status"] == "OK":
            assert encode(case["values"], case["step"]) == case["stream"].tobytes()
            continue
        with pytest.raises((NotFinite, OutOfRange)) as refused:
            encode(case["values"], case["step"])
        assert status_of(refused.value) == case["status"]
    for decode in GUIDE_DECODERS if case["status"] == "OK" else []:
        decoded = decode(case["stream"].tobytes(), case["values"].size)
        assert decoded.tobytes() == case["decoded"].tobytes()


@pytest.mark.parametrize("what", ["integers", "guide"])
def test_golden_damage_is_refused(what: str) -> None:
    for case in cases(f"damaged {what}"):
        for decode in DECODERS if what == "integers" else GUIDE_DECODERS:
            with pytest.raises(CodeError):
                decode(case["stream"].tobytes(), case["count"])


def test_not_a_number_is_no_step() -> None:
    for encode in GUIDE_ENCODERS:
        for step in (float("nan"), float("inf")):
            with pytest.raises(OutOfRange):
                encode(np.ones(3, np.float32), step)


def test_tables_are_distributions_and_costs_are_their_bits() -> None:
    assert np.all(FREQUENCIES[:, 1:].sum(axis=2) == TOTAL)
    used = np.tril(np.ones((16, 16), bool))[None, 1:]
    assert np.all((FREQUENCIES[:, 1:] > 0) == used)
    bits = np.log2(TOTAL / np.maximum(FREQUENCIES, 1))
    assert np.all(np.abs(COSTS / 32 - bits)[FREQUENCIES > 0] <= 1 / 32)


@pytest.mark.parametrize("count", [1, 2, 3, 63, 64, 65, 1000, 4096, 9001])
@pytest.mark.parametrize("scale", [0.05, 0.4, 3.0, 1e3, 1e9])
def test_both_encoders_and_decoders_agree(count: int, scale: float) -> None:
    values = laplacian(count, scale)
    stream = code.encode_integers(values)
    assert kernels.encode_integers(values) == stream
    for decode in DECODERS:
        assert np.array_equal(decode(stream, count), values)


def test_zeros_cost_nothing_and_independent_entries_about_their_entropy() -> None:
    assert len(code.encode_integers(np.zeros(100_000, np.int32))) < 30
    lone = np.zeros(100_000, np.int32)
    lone[70_000] = -3
    assert len(kernels.encode_integers(lone)) < 40
    random = np.random.default_rng(1)
    for scale in (0.2, 1.0, 20.0):
        values = np.rint(random.laplace(scale=scale, size=200_000)).astype(np.int32)
        shares = np.unique(values, return_counts=True)[1] / values.size
        entropy_bits = -float(np.sum(shares * np.log2(shares))) * values.size
        assert entropy_bits < 8 * len(kernels.encode_integers(values)) < 1.06 * entropy_bits


def test_random_streams_end_and_agree() -> None:
    """Whatever the bytes are: an answer or CodeError, the same from both, and nothing out of bounds."""
    random = np.random.default_rng(2)
    stream = bytearray(code.encode_integers(laplacian(700, 5.0)))
    for trial in range(400):
        data = bytearray(stream) if trial % 2 else bytearray(random.bytes(int(random.integers(9, 90))))
        for _ in range(int(random.integers(1, 4)) if trial % 2 else 0):
            data[int(random.integers(len(data)))] = int(random.integers(256))
        if trial % 2 == 0:
            data[:8] = b"\0\0\1\0\0\0\1\0"
        answers = []
        for decode in DECODERS:
            try:
                answers.append(decode(bytes(data), 700).tobytes())
            except CodeError:
                answers.append(b"refused")
        assert answers[0] == answers[1]


def test_a_finer_step_costs_more_bytes_and_aligns_better() -> None:
    random = np.random.default_rng(3)
    values = (random.normal(size=20_000) * np.repeat(np.exp(random.normal(size=200)), 100)).astype(np.float32)
    sizes, cosines = [], []
    for step in (4.0, 2.0, 1.0, 0.5, 0.1):
        encoded = kernels.encode_guide(values, step)
        decoded = kernels.decode_guide(encoded, values.size).astype(np.float64)
        sizes.append(len(encoded))
        cosines.append(float(values @ decoded / np.sqrt((values @ values) * (decoded @ decoded))))
    assert sizes == sorted(sizes)
    assert cosines == sorted(cosines)
    assert cosines[-1] > 0.999


def test_the_cells_points_are_where_the_values_are() -> None:
    """Values all at 1.3 steps decode to within 1/256 step of it."""
    for encode, decode in zip(GUIDE_ENCODERS, GUIDE_DECODERS, strict=True):
        decoded = decode(encode(np.full(10, -1.3, np.float32), 1.0), 10)
        assert np.all(np.abs(decoded + 1.3) <= 1 / 256)
