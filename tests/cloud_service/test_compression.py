"""Levels of compression: what they make of guides, and which one a device gets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_service.compression import (
    LEVELS,
    STEPS,
    USEFUL_COSINE,
    Alignment,
    LevelFacts,
    choose,
    compress,
    encode,
    expected,
    facts_of,
    rate_after,
)
from cloud_service.pipeline import makespan_s
from device_runtime.core import kernels
from device_runtime.zo.errors import NotFinite, OutOfRange

Float32 = NDArray[np.float32]
FLOOR = 0.95


def guide(seed: int, segments: int = 6, count: int = 2000, spread: float = 1.5) -> list[Float32]:
    """Segments whose blocks, and which themselves, differ in energy, like those of real guides."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(segments):
        block = np.repeat(np.exp(random.normal(scale=spread, size=count // 40)), 40)
        made.append((random.normal(size=count) * block * np.exp(random.normal())).astype(np.float32))
    return made


def rms_of(segments: list[Float32]) -> float:
    return float(np.sqrt(np.mean(np.concatenate(segments).astype(np.float64) ** 2)))


@pytest.fixture(scope="module")
def facts() -> tuple[LevelFacts, ...]:
    segments = guide(1)
    return facts_of(segments, rms_of(segments))


def takes_s(item: LevelFacts, rate: float, compute_s: list[float]) -> float:
    return makespan_s([[0.0] * len(compute_s), [size / rate for size in item.segment_bytes], compute_s])


def test_coarser_levels_are_smaller_and_align_worse(facts: tuple[LevelFacts, ...]) -> None:
    assert [item.level for item in facts] == list(LEVELS) == list(range(1, len(STEPS) + 1))
    for finer, coarser in itertools.pairwise(facts):
        assert sum(coarser.segment_bytes) < sum(finer.segment_bytes)
        assert coarser.cosine < finer.cosine
    assert facts[0].cosine > 0.999


def test_energy_gets_the_bits() -> None:
    """Of two segments like each other but for a factor of 30, the lesser one costs a tenth at most."""
    loud = guide(2, segments=1)[0]
    segments = [loud, (loud[::-1] / 30.0).astype(np.float32)]
    middle = facts_of(segments, rms_of(segments))[5]
    assert middle.segment_bytes[1] < 0.1 * middle.segment_bytes[0]
    assert middle.cosine > 0.9


def test_alignment_of_segments_adds_up_to_that_of_the_guide() -> None:
    segments = guide(3)
    rms = rms_of(segments)
    pieces = [compress(values, rms, 6) for values in segments]
    whole = np.concatenate(segments).astype(np.float64)
    received = np.concatenate(
        [kernels.decode_guide(p.data, v.size) for p, v in zip(pieces, segments, strict=True)]
    )
    cosine = float(whole @ received / np.sqrt((whole @ whole) * (received.astype(np.float64) @ received)))
    assert sum((piece.alignment for piece in pieces), Alignment()).cosine == pytest.approx(cosine, abs=1e-6)
    assert [piece.data for piece in pieces] == [encode(values, rms, 6) for values in segments]


def test_a_guide_of_zeros_one_that_is_not_finite_and_no_level() -> None:
    zeros = compress(np.zeros(100, np.float32), 0.0, 3)
    assert zeros.alignment.cosine == 1.0
    assert not np.any(kernels.decode_guide(zeros.data, 100))
    with pytest.raises(NotFinite):
        encode(np.array([np.nan], np.float32), 1.0, 3)
    for level in (0, LEVELS[-1] + 1):
        with pytest.raises(OutOfRange):
            encode(np.ones(3, np.float32), 1.0, level)


def test_real_energy_costs_fewer_bytes_than_expected() -> None:
    """Normal entries are the hardest case at a cosine; `expected` says what they cost."""
    random = np.random.default_rng(4)
    normal = [random.normal(size=20_000).astype(np.float32) for _ in range(3)]
    for measured, known in zip(facts_of(normal, 1.0), expected([20_000] * 3), strict=True):
        assert measured.cosine == pytest.approx(known.cosine, abs=0.02)
        assert sum(measured.segment_bytes) < 1.02 * sum(known.segment_bytes)
    segments = guide(5)
    uneven = facts_of(segments, rms_of(segments))
    for known in expected([2000] * 6)[2:6]:
        as_aligned = min(sum(item.segment_bytes) for item in uneven if item.cosine >= known.cosine)
        assert as_aligned < sum(known.segment_bytes)


@pytest.mark.parametrize("seed", range(8))
def test_a_choice_is_hidden_aligned_and_no_finer_than_useful(
    seed: int, facts: tuple[LevelFacts, ...]
) -> None:
    random = np.random.default_rng(seed)
    for _ in range(100):
        rate = float(10 ** random.uniform(2, 8))
        floor = float(random.choice([0.0, 0.8, 0.95, 0.99]))
        compute_s = list(10 ** random.uniform(-4, 1) * random.uniform(0.5, 2, 6))
        chosen = facts[choose(facts, [0.0] * 6, compute_s, rate, floor) - 1]
        allowed = [item for item in facts if item.cosine >= floor]
        assert chosen in allowed
        assert takes_s(chosen, rate, compute_s) <= 1.05 * takes_s(allowed[-1], rate, compute_s)
        finer = [item for item in facts if item.level == chosen.level - 1]
        hidden = [
            item
            for item in finer
            if takes_s(item, rate, compute_s) <= 1.05 * takes_s(allowed[-1], rate, compute_s)
        ]
        assert not hidden or chosen.cosine >= USEFUL_COSINE  # a finer one would have been free, but of no use


def test_a_faster_link_never_coarsens_and_more_compute_never_does(facts: tuple[LevelFacts, ...]) -> None:
    for compute_s in (0.001, 0.01, 0.1):
        by_rate = [
            choose(facts, [0.0] * 6, [compute_s] * 6, rate, FLOOR) for rate in np.geomspace(1e2, 1e8, 40)
        ]
        assert by_rate == sorted(by_rate, reverse=True)
    by_compute = [choose(facts, [0.0] * 6, [s] * 6, 1e5, FLOOR) for s in np.geomspace(1e-4, 1e2, 40)]
    assert by_compute == sorted(by_compute, reverse=True)
    assert by_compute[0] > by_compute[-1]  # the link decides something


def test_an_unknown_link_gets_the_fewest_bytes_and_an_unreachable_floor_the_finest(
    facts: tuple[LevelFacts, ...],
) -> None:
    least = choose(facts, [0.0] * 6, [1.0] * 6, 0.0, FLOOR)
    assert facts[least - 1].cosine >= FLOOR
    assert least == max(item.level for item in facts if item.cosine >= FLOOR)
    assert choose(facts, [0.0] * 6, [1.0] * 6, 1e9, 1.0) == 1


def test_bits_fall_in_the_round_after_a_link_drops_to_a_tenth(facts: tuple[LevelFacts, ...]) -> None:
    rate, rounds = 0.0, []
    for measured in [30_000.0] * 4 + [3_000.0] * 2 + [30_000.0] * 14:
        rate = rate_after(rate, measured)
        level = choose(facts, [0.0] * 6, [0.05] * 6, rate, FLOOR)
        rounds.append(sum(facts[level - 1].segment_bytes))
    assert rounds[4] < rounds[3]
    assert rounds[4] == rounds[5]
    assert rounds[-1] == rounds[3]  # and come back, within a few rounds
    assert rate_after(rate, 0.0) == rate


def test_guide_sampling_hides_bytes_too(facts: tuple[LevelFacts, ...]) -> None:
    """Where the cloud's own sampling is slow, the link has as much time for nothing."""
    coarse = choose(facts, [0.0] * 6, [1e-3] * 6, 1e4, FLOOR)
    assert choose(facts, [1.0] * 6, [1e-3] * 6, 1e4, FLOOR) < coarse


def test_what_a_version_takes_of_the_link_counts(facts: tuple[LevelFacts, ...]) -> None:
    """Beside a large version, a finer guide takes hardly longer; one beside compute that hid it does."""
    alone = choose(facts, [0.0] * 6, [1e-3] * 6, 1e4, FLOOR)
    assert choose(facts, [0.0] * 6, [1e-3] * 6, 1e4, FLOOR, [0] * 6) == alone
    assert choose(facts, [0.0] * 6, [1e-3] * 6, 1e4, FLOOR, [10**7] * 6) < alone
    work_s = [2.0 * sum(facts[-1].segment_bytes) / 1e4] * 6
    hidden = choose(facts, [0.0] * 6, work_s, 1e4, FLOOR)
    assert choose(facts, [0.0] * 6, work_s, 1e4, FLOOR, [int(2e4 * work_s[0])] * 6) >= hidden
