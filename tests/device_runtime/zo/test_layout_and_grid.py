"""Layouts, exponents and what an adapter must be."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pytest

from device_runtime.zo.errors import LayoutError, OutOfRange
from device_runtime.zo.grid import DEFAULT_EXPONENT, choose_exponent, from_steps, round_to_grid
from device_runtime.zo.layout import Layout, LayoutTensor

ENTRIES = [("w", 1, (2, 3), 20), ("b", 1, (3,), 18), ("a", 0, (4,), 20)]


def test_a_layout_orders_by_segment_then_name() -> None:
    layout = Layout.build(ENTRIES)
    assert [(tensor.name, tensor.offset) for tensor in layout.tensors] == [("a", 0), ("b", 4), ("w", 7)]
    assert layout.parameters == 13
    assert layout.segments == (0, 1)
    assert layout.segment_slice(0) == slice(0, 4)
    assert layout.segment_slice(1) == slice(4, 13)
    assert layout.segment_slice(7) == slice(13, 13)


def test_the_hash_is_of_the_lines_that_the_contract_names() -> None:
    lines = "a\t0\t4\t0\t20\nb\t1\t3\t4\t18\nw\t1\t2x3\t7\t20\n"
    assert Layout.build(ENTRIES).sha256() == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize(
    "tensors",
    [
        (LayoutTensor("a", 0, (2,), 1, 20),),
        (LayoutTensor("a", 0, (2,), 0, 20), LayoutTensor("b", 0, (2,), 3, 20)),
        (LayoutTensor("b", 0, (2,), 0, 20), LayoutTensor("a", 0, (2,), 2, 20)),
        (LayoutTensor("a", 0, (2,), 0, 20), LayoutTensor("a", 0, (2,), 2, 20)),
        (LayoutTensor("a", 1, (2,), 0, 20), LayoutTensor("b", 0, (2,), 2, 20)),
        (LayoutTensor("a\tb", 0, (2,), 0, 20),),
        (LayoutTensor("", 0, (2,), 0, 20),),
        (LayoutTensor("a", -1, (2,), 0, 20),),
        (LayoutTensor("a", 0, (2,), 0, 101),),
    ],
)
def test_a_layout_with_gaps_or_out_of_order_is_refused(tensors: tuple[LayoutTensor, ...]) -> None:
    with pytest.raises(LayoutError):
        Layout(tensors)


def test_check_takes_a_good_adapter_and_names_the_bad_tensor() -> None:
    layout = Layout.build(ENTRIES)
    adapter = np.zeros(13, np.float32)
    layout.check(adapter)
    for value in (float("nan"), float("inf"), 8.0 * 4, 2.0**-30, -0.0):
        bad = adapter.copy()
        bad[5] = value
        with pytest.raises(LayoutError, match=r"^b "):
            layout.check(bad)
    wrong_ones: list[Any] = [adapter[:-1], adapter.astype(np.float64), adapter.reshape(1, -1)]
    for wrong in wrong_ones:
        with pytest.raises(LayoutError, match="not float32 of length 13"):
            layout.check(wrong)


def test_the_exponent_is_the_largest_with_eightfold_room() -> None:
    random = np.random.default_rng(1)
    for magnitude in [1.0, 2.0, 0.125, *np.exp(random.uniform(-5, 60, 200))]:
        exponent = choose_exponent(float(magnitude))
        assert math.ldexp(1.0, 23 - exponent) >= 8 * magnitude
        assert exponent == DEFAULT_EXPONENT or math.ldexp(1.0, 23 - exponent - 1) < 8 * magnitude
    assert choose_exponent(0.0) == DEFAULT_EXPONENT
    for hopeless in (float("nan"), float("inf"), -1.0, 1e38):
        with pytest.raises(OutOfRange):
            choose_exponent(hopeless)


def test_rounding_is_idempotent_and_within_half_a_step() -> None:
    values = np.random.default_rng(2).normal(size=10_000).astype(np.float32)
    rounded = round_to_grid(values, 12)
    assert np.max(np.abs(rounded.astype(np.float64) - values)) <= 2.0**-13
    assert np.array_equal(round_to_grid(rounded, 12), rounded)
    with pytest.raises(OutOfRange):
        round_to_grid(np.array([np.nan], np.float32), 12)
    with pytest.raises(OutOfRange):
        round_to_grid(np.array([2.0**11], np.float32), 12)


def test_zero_steps_are_positive_zero() -> None:
    assert not np.any(np.signbit(from_steps(np.array([-0.0, 0.0]), 20)))
