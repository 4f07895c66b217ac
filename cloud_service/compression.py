"""DTC: in how few bytes a guide reaches a device, and how fine each device's guide is. Pure policy.

A level is a quantiser's step relative to the guide's root mean square, STEPS[level - 1]; level 0 is the
guide as it was sampled, in float32. The step is the same in all segments: with one distortion everywhere
the bits go where the energy is (reverse water-filling; Cover & Thomas, Elements of Information Theory,
10.3.3), so a segment that hardly matters costs next to nothing. device_runtime.zo.guide_code quantises and
codes.

What a coarser guide costs is alignment alone, the cosine between the guide as sampled and as received:
devices measure along what they received, and the cloud computes with the same values.

`choose` picks a device's level from what every level makes of the guide (`facts_of`). Where the guide has no
values yet (job key guide_staleness = 0) these are the facts of the guide before, or what is `expected`; then
1 or 2 guides in 23 fell below a floor of 0.95, to 0.943 at the least (this and what follows: python -m
benchmarks.compression_ideas, on MiniLM and a small Llama).

What did not pay, or too little, is not here. At a cosine of 0.95 a rotation by blocks of 1,024 entries takes
1.23 and 1.12 times the bytes, for it spreads the energy of few over all of them; dither 2.9 and 1.8 times;
zeros chosen by what their entries would cost 0.98 times. Error feedback is for sums over rounds: at about the
same bytes, 4,000 a round of MiniLM, the cosine of decayed sums rises from 0.993 to 0.995 or so, that with the
round's own guide, along which devices measure, falls from 0.966 to 0.94.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cloud_service.directions import Float32
from cloud_service.pipeline import makespan_s
from device_runtime.core import kernels
from device_runtime.zo.errors import OutOfRange

AS_SAMPLED = 0
STEPS = (0.125, 0.2, 0.32, 0.5, 0.8, 1.25, 2.0, 3.2, 5.0)
"""Of levels 1 to 9, in root mean squares of the whole guide: from twice the bits of level 5 to next to
none of them."""
LEVELS = tuple(range(1, len(STEPS) + 1))

# Of independent normal entries, the hardest case: bits a parameter and cosine of each level, measured with
# the coder on 2^20 of them.
_NORMAL_BITS = (5.145, 4.432, 3.716, 3.031, 2.320, 1.664, 0.949, 0.274, 0.016)
_NORMAL_COSINES = (0.9993, 0.9982, 0.9952, 0.9879, 0.9673, 0.9160, 0.7809, 0.4743, 0.1208)
_MOST_HEADER_BYTES = 32  # of an encoded segment
_HIDDEN = 1.05  # a round may take so many times what it takes with the coarsest level that the floor allows
# Of levels that align better, the coarsest will do. What a device measures of the slope along a guide has a
# variance in inverse proportion to the squared cosine: here 8 % are left to gain, and each finer level costs
# a quarter of the bytes, which somebody pays for even where they hide under compute.
USEFUL_COSINE = 0.96


@dataclass(frozen=True)
class Alignment:
    """Sums over a segment, or over a guide: |u|^2, |u'|^2 and u . u' of the guide u, received as u'."""

    sampled: float = 0.0
    received: float = 0.0
    product: float = 0.0

    def __add__(self, other: Alignment) -> Alignment:
        return Alignment(
            self.sampled + other.sampled, self.received + other.received, self.product + other.product
        )

    @property
    def cosine(self) -> float:
        """0 where nothing is received; 1 where there was nothing to receive."""
        if self.sampled == 0.0:
            return 1.0
        return self.product / math.sqrt(self.sampled * self.received) if self.received > 0.0 else 0.0


@dataclass(frozen=True)
class Compressed:
    """A segment at a level: what is sent, and how well it is aligned."""

    data: bytes
    alignment: Alignment


@dataclass(frozen=True)
class LevelFacts:
    """What a level makes, or made, of a guide: each segment's bytes, and the whole guide's cosine."""

    level: int
    segment_bytes: tuple[int, ...]
    cosine: float


def encode(values: Float32, rms: float, level: int) -> bytes:
    """A segment, float32 (m,), at a level from 1 up; `rms` is the whole guide's root mean square.

    Raises NotFinite for values that are NaN or infinite, and OutOfRange for an `rms` that is far below that
    of these values, or a level that does not exist: mistakes of whoever sampled the guide or named the level.
    """
    if level not in LEVELS:
        raise OutOfRange(f"there is no level {level} of compression: take 1 to {LEVELS[-1]}")
    return kernels.encode_guide(values, STEPS[level - 1] * (rms if rms > 0.0 else 1.0))


def cosine(sampled: Float32, received: Float32) -> float:
    """How well a guide as received is aligned with the guide as sampled, both (n,)."""
    u, v = sampled.astype(np.float64), received.astype(np.float64)
    return Alignment(float(np.sum(u * u)), float(np.sum(v * v)), float(np.sum(u * v))).cosine


def compress(values: Float32, rms: float, level: int) -> Compressed:
    """The same, with how well what is received is aligned."""
    data = encode(values, rms, level)
    sampled = values.astype(np.float64)
    received = kernels.decode_guide(data, values.size).astype(np.float64)
    parts = (sampled * sampled, received * received, sampled * received)
    return Compressed(data, Alignment(*(float(np.sum(part)) for part in parts)))


def facts_of(segments: Sequence[Float32], rms: float) -> tuple[LevelFacts, ...]:
    """What every level makes of a guide, finest first."""
    found = []
    for level in LEVELS:
        pieces = [compress(values, rms, level) for values in segments]
        whole = sum((piece.alignment for piece in pieces), Alignment())
        found.append(LevelFacts(level, tuple(len(piece.data) for piece in pieces), whole.cosine))
    return tuple(found)


def expected(counts: Sequence[int]) -> tuple[LevelFacts, ...]:
    """What to expect of a guide of which only the segments' sizes are known: no more bytes than this."""
    return tuple(
        LevelFacts(
            level, tuple(_MOST_HEADER_BYTES + math.ceil(count * bits / 8.0) for count in counts), cosine
        )
        for level, bits, cosine in zip(LEVELS, _NORMAL_BITS, _NORMAL_COSINES, strict=True)
    )


def choose(
    facts: Sequence[LevelFacts],
    sampling_s: Sequence[float],
    compute_s: Sequence[float],
    rate: float,
    floor: float,
    version_bytes: Sequence[int] = (),
) -> int:
    """A device's level: the finest that its link hides, but no finer than useful and never below the floor.

    Hidden: the round's makespan (pipeline.py: guide sampling, link, device) is at most 5 % above what the
    coarsest level that the floor allows would take. So a fast link brings well-aligned guides for nothing,
    and a slow one the fewest bytes that are worth sending.

    Args:
        facts: of the guide before, or what is `expected`.
        sampling_s: seconds of guide sampling, a segment; zeros for a guide that is there already.
        compute_s: seconds of the device's work on each segment.
        rate: of its downlink, bytes a second; 0 where nobody knows: then the coarsest that is allowed.
        floor: the least cosine. Where no level reaches it, the finest is chosen.
        version_bytes: what each segment brings of an adapter version besides; none: nothing.
    """
    by_bytes = sorted(facts, key=lambda item: (sum(item.segment_bytes), item.level))
    allowed = [item for item in by_bytes if item.cosine >= floor] or [
        max(facts, key=lambda item: item.cosine)
    ]
    coarsest = allowed[0]
    if rate <= 0.0:
        return coarsest.level

    besides = version_bytes or [0] * len(coarsest.segment_bytes)

    def takes_s(item: LevelFacts) -> float:
        sent_bytes = [own + other for own, other in zip(item.segment_bytes, besides, strict=True)]
        return makespan_s([sampling_s, [size / rate for size in sent_bytes], compute_s])

    bound_s = _HIDDEN * takes_s(coarsest)
    chosen = coarsest
    for item in allowed[1:]:
        if chosen.cosine >= USEFUL_COSINE or takes_s(item) > bound_s:
            break
        chosen = item
    return chosen.level


def rate_after(before: float, measured: float) -> float:
    """A link's rate, bytes a second, after one more measurement; 0 for none in either.

    A drop is believed at once, so that bits fall in the very next round; a rise by halves (the geometric
    mean), for a burst is no link.
    """
    if measured <= 0.0:
        return before
    return measured if before <= 0.0 or measured < before else math.sqrt(before * measured)
