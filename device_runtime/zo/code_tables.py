"""Frequencies of the symbols that `code` knows, made by integer arithmetic alone.

Row e (1 to 15) of alpha a is the beta-binomial distribution of e draws, in parts of 4,096:

    P(k + 1) / P(k) = (e - k) (k + alpha) / ((k + 1) (e - k - 1 + alpha)),    alpha = ALPHAS[a] / 16

from w(0) = 2^30, rounding down, up to the middle; the other half mirrors it. Then
frequency(k) = 1 + floor(w(k) (4096 - (e + 1)) / sum of w); what 4,096 still lacks goes to the first of the
largest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALPHAS = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)  # in sixteenths
EXACT = 15  # sums up to here have a row of their own
TOTAL = 4096


def _row(draws: int, alpha: int) -> list[int]:
    weights = [1 << 30]
    for k in range(draws // 2):
        above = weights[k] * (draws - k) * (16 * k + alpha)
        weights.append(above // ((k + 1) * (16 * (draws - k - 1) + alpha)))
    weights += weights[: (draws + 1) // 2][::-1]
    total = sum(weights)
    row = [1 + weight * (TOTAL - (draws + 1)) // total for weight in weights]
    row[row.index(max(row))] += TOTAL - sum(row)
    return row


def _frequencies() -> NDArray[np.int64]:
    table = np.zeros((len(ALPHAS), EXACT + 1, EXACT + 1), np.int64)
    for number, alpha in enumerate(ALPHAS):
        for draws in range(1, EXACT + 1):
            table[number, draws, : draws + 1] = _row(draws, alpha)
    return table


def _cost(frequency: int) -> int:
    """32 log2(4096 / frequency), its logarithm rounded down: five bits behind the point by squaring."""
    whole = frequency.bit_length() - 1
    x, behind = frequency << (15 - whole), 0
    for _ in range(5):
        x = x * x >> 15
        behind = behind << 1 | x >> 16
        x >>= x >> 16
    return 32 * 12 - (32 * whole + behind)


# By alpha's number, sum of the node (row), symbol. Beyond a row's last symbol all are 0.
FREQUENCIES = _frequencies()
STARTS = np.cumsum(FREQUENCIES, axis=2) - FREQUENCIES
COSTS = np.array(
    [[[_cost(int(f)) if f else 0 for f in row] for row in table] for table in FREQUENCIES], np.int64
)
