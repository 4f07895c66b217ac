"""Random bits: slices, independence of the cut, and that the bits look random."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from device_runtime.zo import philox


def test_a_slice_is_the_same_however_it_is_cut() -> None:
    random = np.random.default_rng(0)
    signs = philox.signs(42, 100, 3000)
    halves = philox.half_words(42, 100, 3000)
    cuts = np.sort(random.integers(0, 3001, 20))
    for begin, end in pairwise(cuts):
        count = int(end - begin)
        assert np.array_equal(signs[begin:end], philox.signs(42, 100 + int(begin), count))
        assert np.array_equal(halves[begin:end], philox.half_words(42, 100 + int(begin), count))


def test_parameter_i_is_bit_i_of_its_block() -> None:
    block = philox.blocks(9, philox.NOISE_STREAM, 3, 1)[0]
    for i in (384, 384 + 31, 384 + 32, 384 + 127):
        bit = int(block[(i % 128) // 32]) >> (i % 32) & 1
        assert philox.signs(9, i, 1)[0] == (1.0 if bit else -1.0)
    rounding = philox.blocks(9, philox.UPDATE_STREAM, 5, 1)[0]
    expected = [int(word) >> shift & 0xFFFF for word in rounding for shift in (0, 16)]
    assert philox.half_words(9, 40, 8).tolist() == expected


def test_signs_are_balanced_and_unrelated_between_seeds() -> None:
    """Means of 2^20 signs have deviation 2^-10; five of them is far beyond chance."""
    first, second = philox.signs(1, 0, 2**20), philox.signs(2, 0, 2**20)
    assert abs(float(np.mean(first))) < 5 * 2.0**-10
    assert abs(float(np.mean(first * second))) < 5 * 2.0**-10
    assert abs(float(np.mean(first[:-1] * first[1:]))) < 5 * 2.0**-10


def test_half_words_are_uniform() -> None:
    """Chi-square over 256 bins of 2^18 values: mean 255, deviation 22.6."""
    halves = philox.half_words(3, 0, 2**18)
    for digits in (halves >> 8, halves & 0xFF):
        counts = np.bincount(digits, minlength=256)
        chi_square = float(np.sum((counts - 1024.0) ** 2) / 1024.0)
        assert 255 - 5 * 22.6 < chi_square < 255 + 5 * 22.6
