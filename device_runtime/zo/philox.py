"""Philox4x32-10: random bits as a function of (seed, stream, block), so that any slice can be made alone.

Source: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
2011.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOISE_STREAM = 0
UPDATE_STREAM = 1
SIGNS_PER_BLOCK = 128
HALF_WORDS_PER_BLOCK = 8

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = 0x9E3779B9  # golden ratio
_WEYL_1 = 0xBB67AE85  # sqrt(3) - 1
_LOW_32 = np.uint64(0xFFFFFFFF)
_SHIFT_32 = np.uint64(32)
_ROUNDS = 10


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Return Philox4x32-10 of every counter under one key.

    One round maps (c0, c1, c2, c3) to (hi(M1*c2) ^ c1 ^ k0, lo(M1*c2), hi(M0*c0) ^ c3 ^ k1, lo(M0*c0)); the
    key grows by the Weyl constants between rounds (Salmon et al. 2011, section 4.2).

    Shapes: `counter` (blocks, 4) -> (blocks, 4), both uint32; `key` two 32-bit words.
    """
    c0, c1, c2, c3 = (counter[:, word].astype(np.uint64) for word in range(4))
    key_0, key_1 = key
    for _ in range(_ROUNDS):
        product_0 = _MULTIPLIER_0 * c0
        product_1 = _MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (
            (product_1 >> _SHIFT_32) ^ c1 ^ np.uint64(key_0),
            product_1 & _LOW_32,
            (product_0 >> _SHIFT_32) ^ c3 ^ np.uint64(key_1),
            product_0 & _LOW_32,
        )
        key_0 = (key_0 + _WEYL_0) & 0xFFFFFFFF
        key_1 = (key_1 + _WEYL_1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def blocks(seed: int, stream: int, first_block: int, count: int) -> NDArray[np.uint32]:
    """Return blocks first_block .. first_block + count - 1 of a stream.

    key = (seed mod 2^32, seed div 2^32), counter = (block mod 2^32, block div 2^32, stream, 0).

    Shapes: -> (count, 4) uint32. `seed` is taken modulo 2^64.
    """
    index = np.arange(count, dtype=np.uint64) + np.uint64(first_block)
    counter = np.zeros((count, 4), dtype=np.uint32)
    counter[:, 0] = index & _LOW_32
    counter[:, 1] = index >> _SHIFT_32
    counter[:, 2] = stream
    return philox4x32(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))


def signs(seed: int, start: int, count: int) -> NDArray[np.float64]:
    """Return the noise v of parameters start .. start + count - 1: each -1.0 or +1.0.

    Parameter i is bit i mod 128 of block i div 128 of the noise stream (bit b of a block is bit b mod 32 of
    its word b div 32); a set bit is +1.

    Shapes: -> (count,) float64.
    """
    first_block = start // SIGNS_PER_BLOCK
    last_block = -(-(start + count) // SIGNS_PER_BLOCK)
    words = blocks(seed, NOISE_STREAM, first_block, last_block - first_block)
    bits = (words[:, :, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    begin = start - first_block * SIGNS_PER_BLOCK
    chosen = bits.reshape(-1)[begin : begin + count]
    return np.where(chosen == 1, 1.0, -1.0)


def half_words(seed: int, start: int, count: int) -> NDArray[np.uint16]:
    """Return the 16 random bits that round the update of each parameter start .. start + count - 1.

    Parameter i is half-word i mod 8 of block i div 8 of the update stream; half-word h is in word h div 2,
    the low half first.

    Shapes: -> (count,) uint16.
    """
    first_block = start // HALF_WORDS_PER_BLOCK
    last_block = -(-(start + count) // HALF_WORDS_PER_BLOCK)
    words = blocks(seed, UPDATE_STREAM, first_block, last_block - first_block)
    halves = np.stack([words & np.uint32(0xFFFF), words >> np.uint32(16)], axis=2).astype(np.uint16)
    begin = start - first_block * HALF_WORDS_PER_BLOCK
    return halves.reshape(-1)[begin : begin + count]
