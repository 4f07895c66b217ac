"""Room for states: what was written is what is read, to float16 in a file, and nothing becomes infinite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_runtime.state_store import MOST_HALF, InFile, InMemory


def test_in_memory_it_is_the_same_bits() -> None:
    store, states = InMemory(7, 5), np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    store.write(slice(2, 5), states)
    assert store.read(slice(2, 5)).tobytes() == states.tobytes()
    assert store.read(slice(3, 3)).shape == (0, 5)


def test_in_a_file_it_is_rounded_to_float16(tmp_path: Path) -> None:
    store, states = InFile(7, 5, tmp_path), np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    store.write(slice(2, 5), states)
    store.write(slice(5, 7), np.ones((2, 5), np.float32))
    store.write(slice(0, 0), np.ones((0, 5), np.float32))
    assert store.read(slice(2, 5)).tobytes() == states.astype(np.float16).astype(np.float32).tobytes()
    store.close()


@pytest.mark.parametrize("largest", [MOST_HALF, 65505.0, 65520.0, 1e5, 2.0**40, 3e38])
def test_values_beyond_float16_keep_its_precision(tmp_path: Path, largest: float) -> None:
    store = InFile(2, 3, tmp_path)
    states = np.array([[largest, -largest / 3, largest / 1000], [0.25, 1e-3, -7.0]], np.float32)
    store.write(slice(0, 2), states)
    found = store.read(slice(0, 2))
    assert np.all(np.abs(found - states) <= 2.0**-11 * np.abs(states))
    assert found[1].tobytes() == states[1].astype(np.float16).astype(np.float32).tobytes()
    store.write(slice(0, 1), states[1:])  # a token's power of two goes with its values
    assert store.read(slice(0, 1)).tobytes() == found[1:].tobytes()
    store.close()


def test_what_is_not_finite_stays_so(tmp_path: Path) -> None:
    store = InFile(2, 2, tmp_path)
    states = np.array([[np.nan, 1.0], [-np.inf, 1e30]], np.float32)
    store.write(slice(0, 2), states)
    found = store.read(slice(0, 2))
    assert np.isnan(found[0, 0])
    assert found[0, 1] == 1.0
    assert found[1, 0] == -np.inf
    store.close()


def test_no_room_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        InFile(8, 8, tmp_path / "absent")
    with pytest.raises(OSError, match=r"No space|too large"):
        InFile(2**40, 2**10, tmp_path)
