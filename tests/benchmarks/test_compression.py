"""What the compression benchmark compares with, and its table."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.compression import at_floor, at_level, bound, table
from benchmarks.compression_ideas import IDEAS, below_floor, fed_back
from benchmarks.compression_ideas import table as table_of_ideas
from benchmarks.compression_peers import PEERS, cosine
from benchmarks.guide_samples import Sample


def sample() -> Sample:
    random = np.random.default_rng(9)
    return Sample("after", tuple(random.laplace(size=count).astype(np.float32) for count in (400, 100)))


@pytest.mark.parametrize(
    ("name", "size_bytes", "least"),
    [
        ("float16", 1008, 0.99999),
        ("int8", 508, 0.999),
        ("sign and scale", 50 + 13 + 8, 0.65),
        ("largest 20.0%", 604, 0.8),
    ],
)
def test_peers_send_what_they_say(name: str, size_bytes: int, least: float) -> None:
    sent, received = PEERS[name](sample().segments)
    assert sent == size_bytes
    assert least < cosine(sample().whole, received) < 1.0


def test_zlib_of_float32_loses_nothing() -> None:
    sent, received = PEERS["zlib of float32"](sample().segments)
    assert np.array_equal(received, sample().whole)
    assert 0.8 * 4 * 500 < sent < 1.1 * 4 * 500


def test_the_bound_is_that_of_one_bit() -> None:
    assert bound(1 / 8) == pytest.approx(np.sqrt(0.75))


def test_the_table_says_what_became_of_the_goals() -> None:
    found = sample()
    levels = [at_level(found, level, 1) for level in (1, 5)]
    floor = at_floor(found)
    assert 0.95 <= floor["cosine"] < 0.97
    row = {"name": "a", "parameters": 500, "non_zero": 500, "levels": levels, "at_floor": floor, "peers": {}}
    lines = table([row]).splitlines()
    assert lines[0] == "a: 500 parameters, 100% not zero"
    assert ("MISSED" in lines[-2]) == (floor["bytes"] > 125)
    levels[1]["decode_mb_s"] = 12.4
    assert table([row]).splitlines()[-1].endswith("(goal: above 12.5, MISSED)")


def test_ideas_return_what_they_were_given_but_for_the_step() -> None:
    random = np.random.default_rng(10)
    fine = Sample("", tuple(random.normal(size=count).astype(np.float32) for count in (2500, 100)))
    for name, send in IDEAS.items():
        size_bytes, received = send(fine, 0.02)
        assert 2000 < size_bytes < 4000, name
        assert np.max(np.abs(received - fine.whole)) < 0.03, name


def test_feedback_aligns_sums_and_not_the_guide_itself() -> None:
    random = np.random.default_rng(11)
    still = random.laplace(size=600)
    guides = [(np.asarray(still + random.laplace(size=600), np.float32),) for _ in range(12)]
    without, with_it = (fed_back(guides, share, 2.0) for share in (0.0, 0.9))
    assert with_it["sums"] > without["sums"]
    assert with_it["own"] < without["own"]
    below = below_floor(guides)
    assert below["guides"] == 11
    figures = {"at_floor": {"as sent": 10, "rotated": 12}, "below_floor": below,
               "rounds": [{"step": 2.0, "share": 0.9, **with_it}]}  # fmt: skip
    assert table_of_ideas(figures).splitlines()[2].split() == ["rotated", "12", "1.20"]
