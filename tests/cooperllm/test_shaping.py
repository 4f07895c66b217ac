"""The arithmetic of a link, on a clock that the tests turn."""

from __future__ import annotations

from itertools import islice, pairwise
from statistics import mean

import pytest

from cooperllm.simulate.link import Link
from cooperllm.simulate.shaping import TokenBucket, Way, resets, stalls

PLAIN = Link(1000.0, 500.0, rtt_s=0.2)


def test_a_busy_bucket_keeps_its_rate_exactly() -> None:
    bucket = TokenBucket(1000.0, 10.0, burst_s=0.0)
    # However late it is asked, what follows at once leaves 0.1 s later.
    assert [bucket.leave_s(100, 10.0 + 0.01 * n) for n in range(5)] == pytest.approx(
        [10.1, 10.2, 10.3, 10.4, 10.5]
    )


def test_an_idle_bucket_saves_up_its_burst_and_no_more() -> None:
    bucket = TokenBucket(1000.0, 0.0, burst_s=0.05)
    assert bucket.leave_s(50, 100.0) == 100.0
    assert bucket.leave_s(50, 100.0) == pytest.approx(100.05)


def test_a_new_rate_holds_for_what_has_not_left() -> None:
    bucket = TokenBucket(1000.0, 0.0, burst_s=0.0)
    bucket.leave_s(1000, 0.0)
    bucket.set_rate(100.0, 0.5)  # 500 bytes have left
    assert bucket.leave_s(100, 0.5) == pytest.approx(0.5 + 600 / 100)
    idle = TokenBucket(1000.0, 0.0, burst_s=0.0)
    idle.set_rate(10.0, 3.0)
    assert idle.leave_s(10, 3.0) == pytest.approx(4.0)


def test_crossing_takes_half_a_round_trip_and_jitter() -> None:
    way = Way(1000.0, PLAIN, 1, 0.0)
    assert way.arrival_s(1000, 1.0) == pytest.approx(2.1, abs=0.003)
    shaken = Link(1000.0, 500.0, rtt_s=0.2, jitter_s=0.5)
    found = [Way(1000.0, shaken, seed, 0.0).arrival_s(0, 1.0) - 1.1 for seed in range(300)]
    assert min(found) > -0.003
    assert max(found) <= 0.5
    assert mean(found) == pytest.approx(0.25, abs=0.05)


def test_the_same_seed_shakes_in_the_same_way() -> None:
    link = Link(1e6, 1e6, jitter_s=0.1)
    first, again, other = (
        [way.arrival_s(10, 0.1 * n) for n in range(20)]
        for way in (Way(1e6, link, 7, 0.0), Way(1e6, link, 7, 0.0), Way(1e6, link, 8, 0.0))
    )
    assert first == again
    assert first != other


def test_a_stall_moves_all_that_follows() -> None:
    way = Way(1000.0, PLAIN, 1, 0.0)
    way.stall(3.0, 1.0)
    assert way.stalled_until_s == 4.0
    assert way.arrival_s(1000, 1.5) == pytest.approx(5.1)
    way.stall(2.0, 3.0)  # goes on until 5 s: one more second, not two
    assert way.stalled_until_s == 5.0
    assert way.arrival_s(1000, 3.5) == pytest.approx(7.1)


def test_a_drop_during_a_stall_makes_it_no_longer() -> None:
    way = Way(1000.0, PLAIN, 1, 0.0)
    way.stall(3.0, 1.0)
    way.change(100.0, PLAIN, 2.0)
    assert way.arrival_s(100, 2.0) == pytest.approx(4.0 + 1.0 + 0.1)


def test_the_queue_is_the_bandwidth_delay_product_and_a_little() -> None:
    way = Way(1e6, Link(1e6, 1e6, rtt_s=0.1, jitter_s=0.05), 1, 0.0)
    assert way.piece_bytes == 10_000
    assert way.queue_bytes == 150_000 + 40_000
    assert Way(100.0, PLAIN, 1, 0.0).piece_bytes == 1448
    assert Way(1e9, PLAIN, 1, 0.0).piece_bytes == 65536


def test_stalls_and_resets_are_drawn_around_their_means() -> None:
    link = Link(1e6, 1e6, stall_s=2.0, stall_every_s=60.0, reset_every_bytes=1e6)
    pauses = [pause_s for pause_s, duration_s in islice(stalls(link, 3), 2000) if duration_s == 2.0]
    assert mean(pauses) == pytest.approx(60.0, rel=0.1)
    sizes = list(islice(resets(link, 3), 2000))
    assert mean(sizes) == pytest.approx(1e6, rel=0.1)
    assert sizes == list(islice(resets(link, 3), 2000))
    assert any(after != before for before, after in pairwise(sizes))
    assert list(stalls(PLAIN, 3)) == []
    assert list(resets(PLAIN, 3)) == []
