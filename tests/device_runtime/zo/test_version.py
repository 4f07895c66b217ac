"""Replaying records and applying deltas."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.core import kernels
from device_runtime.zo.code import encode_integers
from device_runtime.zo.direction import Direction
from device_runtime.zo.errors import LayoutError, VersionError
from device_runtime.zo.layout import Layout
from device_runtime.zo.spsa import Update, apply_update
from device_runtime.zo.version import (
    adapter_sha256,
    apply_records,
    decode_delta,
    decode_piece,
    encode_delta,
    encode_piece,
)

LAYOUT = Layout.build([("a", 0, (50,), 20), ("b", 1, (30,), 18)])


def updates(count: int) -> list[Update]:
    return [Update(1e-3, 50 + step, (Direction(step),), (0.01,)) for step in range(count)]


def zeros() -> NDArray[np.float32]:
    return np.zeros(LAYOUT.parameters, np.float32)


def test_records_replay_to_the_same_bits_and_leave_the_start_alone() -> None:
    start = zeros()
    live = zeros()
    for update in updates(5):
        apply_update(live, LAYOUT, update)
    replayed = apply_records(start, LAYOUT, updates(5))
    assert adapter_sha256(replayed) == adapter_sha256(live)
    assert not np.any(start)
    halfway = apply_records(start, LAYOUT, updates(5)[:3])
    assert adapter_sha256(apply_records(halfway, LAYOUT, updates(5)[3:])) == adapter_sha256(live)


def test_forms_of_a_version_can_be_mixed() -> None:
    first = apply_records(zeros(), LAYOUT, updates(2))
    second = apply_records(first, LAYOUT, updates(3))
    by_delta = decode_delta(encode_delta(first, second, LAYOUT), first, LAYOUT)
    assert adapter_sha256(by_delta) == adapter_sha256(second)
    assert adapter_sha256(apply_records(by_delta, LAYOUT, updates(1))) == adapter_sha256(
        apply_records(second, LAYOUT, updates(1))
    )


@pytest.mark.parametrize("from_nothing", [False, True])
def test_pieces_lead_to_the_same_adapter(from_nothing: bool) -> None:
    first = apply_records(zeros(), LAYOUT, updates(2))
    second = apply_records(first, LAYOUT, updates(3))
    before, arriving = None if from_nothing else first, first.copy()
    for segment in LAYOUT.segments:
        piece = encode_piece(before, second, LAYOUT, segment)
        assert kernels.encode_piece(before, second, LAYOUT, segment) == piece
        after = decode_piece(piece, before, LAYOUT, segment)
        assert np.array_equal(kernels.decode_piece(piece, before, LAYOUT, segment), after)
        arriving[LAYOUT.segment_slice(segment)] = after
        with pytest.raises(VersionError):
            decode_piece(piece[:-1], before, LAYOUT, segment)
    assert adapter_sha256(arriving) == adapter_sha256(second)


def test_a_piece_beyond_the_grid_is_refused() -> None:
    (segment, *_) = LAYOUT.segments
    count = sum(tensor.count for tensor in LAYOUT.segment_tensors(segment))
    for steps in (1 << 23, -(1 << 23), (1 << 31) - 1):
        with pytest.raises(VersionError, match="out of its range"):
            decode_piece(encode_integers(np.full(count, steps, np.int32)), zeros(), LAYOUT, segment)


def test_small_steps_make_a_small_delta() -> None:
    layout = Layout.build([("a", 0, (20_000,), 20)])
    before = np.zeros(layout.parameters, np.float32)
    after = (np.random.default_rng(0).integers(-2, 3, layout.parameters) * 2.0**-20 + 0.0).astype(np.float32)
    assert len(encode_delta(before, after, layout)) < 0.15 * before.nbytes


def test_damaged_deltas_are_refused() -> None:
    before, after = zeros(), apply_records(zeros(), LAYOUT, updates(1))
    delta = encode_delta(before, after, LAYOUT)
    random = np.random.default_rng(4)
    for cut in (0, 7, 79, 80, len(delta) - 1):
        with pytest.raises(VersionError):
            decode_delta(delta[:cut], before, LAYOUT)
    for _ in range(300):
        bad = bytearray(delta)
        bad[int(random.integers(len(bad)))] ^= 1 << int(random.integers(8))
        try:
            result = decode_delta(bytes(bad), before, LAYOUT)
        except VersionError:
            continue
        assert adapter_sha256(result) == adapter_sha256(after)  # a bit that nothing looks at
    for wrong in (delta + b"x", delta[:80] + b"x" + delta[80:], delta[:80]):
        with pytest.raises(VersionError):
            decode_delta(wrong, before, LAYOUT)
    with pytest.raises(VersionError, match="another adapter"):
        decode_delta(delta, after, LAYOUT)
    with pytest.raises(VersionError, match="parameters"):
        decode_delta(delta, before[:-1], LAYOUT)


def test_a_delta_of_a_former_format_is_refused() -> None:
    delta = encode_delta(zeros(), zeros(), LAYOUT)
    with pytest.raises(VersionError, match="this release"):
        decode_delta(delta[:8] + b"\1" + delta[9:], zeros(), LAYOUT)


def test_an_adapter_off_its_grid_makes_no_delta() -> None:
    with pytest.raises(LayoutError):
        encode_delta(zeros(), zeros() + np.float32(2.0**-25), LAYOUT)
