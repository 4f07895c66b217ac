"""One entropy coder for arrays of signed integers: quantised guides and deltas of adapter versions.

The magnitudes of up to 4,096 consecutive entries, a *chunk*, are a binary tree of sums. The root holds the
chunk's sum; every node says how much of its sum lies in its left half. Where nothing is left, nothing more is
said: a run of zeros costs no bits and no time. Given a node's sum e, its left part is coded with the
beta-binomial distribution of e draws and one parameter alpha for both sides (Polya's urn), which covers
everything from independent entries (alpha large) to few that hold all (alpha small). The encoder picks an
alpha for each of the six lowest sizes of node, the sixth for all larger ones; there are 16 to choose from.

A stream is two parts that meet, little-endian: words of an interleaved range coder from the front, raw bits
from the back.

    bytes 0..3, 4..7   states of lane 0 and lane 1, uint32, of range asymmetric numeral systems (rANS; Duda,
                       arXiv 1311.2540; interleaved as Giesen, arXiv 1402.3392)
    bytes 8..          uint16 words, in the order in which the decoder needs them
    from the end       raw bits: bit i is bit i mod 8 of byte (size - 1 - i div 8), a number's low bits first

No entries are no bytes. Otherwise, for each chunk:

    raw 6 bits         length of its sum in bits; 0 ends the chunk, all of it is zero
    raw length-1 bits  the sum below its highest bit
    raw 1 bit          1 when six alphas follow; else they stay what they were, at first ALPHAS_AT_START
    raw 6 x 4 bits     the alphas' numbers, for nodes of 2, 4, 8, 16, 32 entries and for larger ones
    splits             level by level from the root, whose size is the smallest power of two that holds the
                       chunk; in a level the nodes with a positive sum whose right half begins inside the
                       chunk (others' left part is all of it), ascending
    raw signs          one for each entry that is not zero, ascending; 1 is negative

A split is one symbol, then raw bits. Where e <= 15 the symbol is the left part. Where it is larger the symbol
is b = floor(16 left / (e + 1)), coded as for e = 15; left - ceil(b (e + 1) / 16) follows in the phased-in
binary code of the w values that it may have: with k = floor(log2 w) and u = 2^(k+1) - w, one below u is a
number of k bits; others are increased by u, and their upper k bits come first as a number, then the lowest.

Symbol i of the stream is in lane i mod 2. From state x it is decoded so: slot = x mod 4096; the symbol is the
last with start <= slot; x = frequency (x div 4096) + slot - start; if x < 65536, x = 65536 x + the next word.
Both states end at 65536, and the parts meet with less than a byte of zero bits between them: most damage is
noticed, that of a sign is not. (What is sent has a SHA-256 besides.) Everything is integer arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from device_runtime.zo.code_tables import COSTS, EXACT, FREQUENCIES, STARTS
from device_runtime.zo.errors import CodeError

CHUNK = 4096  # entries that share a tree
GROUPS = 6  # sizes of node that have an alpha of their own
ALPHAS_AT_START: tuple[int, ...] = (9, 12, 15, 15, 8, 7)
_LENGTH_BITS = 6
_ALPHA_BITS = 4
_LOWEST = 1 << 16  # of a state
_LARGEST = 1 << 31  # magnitude of an int32


@dataclass
class _Written:
    """What the encoder gathers: symbols as (start, frequency), and raw bits."""

    symbols: list[tuple[int, int]] = field(default_factory=list)
    bits: list[int] = field(default_factory=list)

    def raw(self, value: int, count: int) -> None:
        self.bits.extend(value >> i & 1 for i in range(count))


def encode_integers(values: NDArray[np.int32]) -> bytes:
    """Return the stream of int32 (m,). It does not name m: keep it beside the stream."""
    if values.size == 0:
        return b""
    written, alphas = _Written(), ALPHAS_AT_START
    for start in range(0, values.size, CHUNK):
        alphas = _encode_chunk(values[start : start + CHUNK].astype(np.int64), alphas, written)
    bits = np.array(written.bits, np.uint8)
    return _encode_symbols(written.symbols) + np.packbits(bits, bitorder="little")[::-1].tobytes()


def _encode_chunk(values: NDArray[np.int64], alphas: tuple[int, ...], written: _Written) -> tuple[int, ...]:
    count = values.size
    sums = [np.zeros(1 << (count - 1).bit_length(), np.int64)]  # by level: of nodes of 2^level entries
    sums[0][:count] = np.abs(values)
    while sums[-1].size > 1:
        sums.append(sums[-1][0::2] + sums[-1][1::2])
    root = int(sums[-1][0])
    written.raw(root.bit_length(), _LENGTH_BITS)
    if root == 0:
        return alphas
    written.raw(root - (1 << (root.bit_length() - 1)), root.bit_length() - 1)
    splits = [_splits(sums, level, count) for level in range(1, len(sums))]
    chosen = _choose_alphas(splits, alphas)
    written.raw(int(chosen != alphas), 1)
    if chosen != alphas:
        for alpha in chosen:
            written.raw(alpha, _ALPHA_BITS)
    for level in range(len(splits), 0, -1):
        rows, symbols, offsets, widths = splits[level - 1]
        alpha = chosen[_group(level)]
        starts, frequencies = STARTS[alpha, rows, symbols], FREQUENCIES[alpha, rows, symbols]
        written.symbols.extend(zip(starts.tolist(), frequencies.tolist(), strict=True))
        for offset, width in zip(offsets.tolist(), widths.tolist(), strict=True):
            _write_phased(offset, width, written)
    for value in values[values != 0].tolist():
        written.raw(int(value < 0), 1)
    return chosen


def _group(level: int) -> int:
    return min(level, GROUPS) - 1


_Splits = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _splits(sums: list[NDArray[np.int64]], level: int, count: int) -> _Splits:
    """A level's coded nodes: the table's row, the symbol, and where it lies in the values of that symbol."""
    nodes = np.arange(sums[level].size)
    coded = (sums[level] > 0) & ((nodes << level) + (1 << (level - 1)) < count)
    total, left = sums[level][coded], sums[level - 1][0::2][coded]
    large = total > EXACT
    symbol = np.where(large, 16 * left // (total + 1), left)
    low = np.where(large, -(-symbol * (total + 1) // 16), left)
    high = np.where(large, -(-(symbol + 1) * (total + 1) // 16), left + 1)
    return np.minimum(total, EXACT), symbol, left - low, high - low


def _choose_alphas(splits: list[_Splits], before: tuple[int, ...]) -> tuple[int, ...]:
    """The cheapest alphas; those of before where new ones would not earn their own bits."""
    costs = np.zeros((GROUPS, len(COSTS)), np.int64)
    for level, (rows, symbols, _, _) in enumerate(splits, 1):
        costs[_group(level)] += COSTS[:, rows, symbols].sum(axis=1)
    cheapest = costs.argmin(axis=1)
    groups = np.arange(GROUPS)
    kept = int(costs[groups, np.array(before)].sum())
    anew = int(costs[groups, cheapest].sum()) + 32 * GROUPS * _ALPHA_BITS
    return tuple(cheapest.tolist()) if anew < kept else before


def _write_phased(offset: int, width: int, written: _Written) -> None:
    bits = width.bit_length() - 1
    short = (2 << bits) - width
    if offset < short:
        written.raw(offset, bits)
    else:
        written.raw((offset + short) >> 1, bits)
        written.raw((offset + short) & 1, 1)


def _encode_symbols(symbols: list[tuple[int, int]]) -> bytes:
    states, words = [_LOWEST, _LOWEST], []
    for index in range(len(symbols) - 1, -1, -1):
        start, frequency = symbols[index]
        x = states[index % 2]
        if x >= frequency << 20:
            words.append(x & 0xFFFF)
            x >>= 16
        states[index % 2] = (x // frequency << 12) + x % frequency + start
    return np.array(states, "<u4").tobytes() + np.array(words[::-1], "<u2").tobytes()


class _Reader:
    """Reads both parts of a stream, never outside of it."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 8:
            raise CodeError("a coded stream is truncated: fetch it again")
        self._data, self._front, self._bits, self._lane = data, 8, 0, 0
        self._states = [int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little")]

    def raw(self, count: int) -> int:
        value = 0
        for i in range(count):
            place = len(self._data) - 1 - self._bits // 8
            if place < 8:
                raise CodeError("a coded stream is truncated: fetch it again")
            value |= (self._data[place] >> self._bits % 8 & 1) << i
            self._bits += 1
        return value

    def symbol(self, alpha: int, row: int) -> int:
        x, starts = self._states[self._lane], STARTS[alpha, row]
        slot = x & 4095
        symbol = int(np.searchsorted(starts[: row + 1], slot, side="right")) - 1
        x = int(FREQUENCIES[alpha, row, symbol]) * (x >> 12) + slot - int(starts[symbol])
        if x < _LOWEST:
            if self._front + 2 > len(self._data):
                raise CodeError("a coded stream is truncated: fetch it again")
            x = x << 16 | int.from_bytes(self._data[self._front : self._front + 2], "little")
            self._front += 2
        self._states[self._lane] = x
        self._lane ^= 1
        return symbol

    def phased(self, width: int) -> int:
        bits = width.bit_length() - 1
        short = (2 << bits) - width
        value = self.raw(bits)
        return value if value < short else (value << 1 | self.raw(1)) - short

    def check_end(self) -> None:
        """Both states and both parts must be where the encoder began."""
        raw_bytes = -(-self._bits // 8)
        padding = self.raw(8 * raw_bytes - self._bits)
        if self._states != [_LOWEST] * 2 or self._front + raw_bytes != len(self._data) or padding:
            raise CodeError("a coded stream is damaged: fetch it again")


def decode_integers(data: bytes, count: int) -> NDArray[np.int32]:
    """Return the int32 (count,) of a stream. What is held depends on `count` alone, not on the stream.

    Raises CodeError when the stream is damaged, truncated or longer than its entries: the caller fetches it
    again.
    """
    values = np.zeros(count, np.int32)
    if count == 0 and not data:
        return values
    reader, alphas = _Reader(data), ALPHAS_AT_START
    for start in range(0, count, CHUNK):
        alphas = _decode_chunk(reader, values[start : start + CHUNK], alphas)
    reader.check_end()
    return values


def _decode_chunk(reader: _Reader, values: NDArray[np.int32], alphas: tuple[int, ...]) -> tuple[int, ...]:
    count = values.size
    length = reader.raw(_LENGTH_BITS)
    if length == 0:
        return alphas
    root = 1 << (length - 1) | reader.raw(length - 1)
    if root > count * _LARGEST:
        raise CodeError("a coded stream is damaged: fetch it again")
    if reader.raw(1):
        alphas = tuple(reader.raw(_ALPHA_BITS) for _ in range(GROUPS))
    nodes = [(0, root)]
    for level in range((count - 1).bit_length(), 0, -1):
        nodes = _split_level(reader, nodes, level, count, alphas[_group(level)])
    for place, magnitude in nodes:
        value = -magnitude if reader.raw(1) else magnitude
        if not -_LARGEST <= value < _LARGEST:
            raise CodeError("a coded stream is damaged: fetch it again")
        values[place] = value
    return alphas


def _split_level(
    reader: _Reader, nodes: list[tuple[int, int]], level: int, count: int, alpha: int
) -> list[tuple[int, int]]:
    """The nodes of half the size whose sums are positive. A node is (its first entry, its sum)."""
    half, halves = 1 << (level - 1), []
    for place, total in nodes:
        left = total
        if place + half < count:
            left = reader.symbol(alpha, min(total, EXACT))
            if total > EXACT:
                low, high = (-(-b * (total + 1) // 16) for b in (left, left + 1))
                left = low + reader.phased(high - low)
        halves += [node for node in ((place, left), (place + half, total - left)) if node[1] > 0]
    return halves
