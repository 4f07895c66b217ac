"""A round's spans become stages, and the stages a makespan, a bound and a serial time: on made-up spans."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cooperllm.simulate import pipelined, round_plot
from cooperllm.simulate.pipelined import Pipelined
from cooperllm.simulate.timeline import Span

START_MS = 1_700_000_000_000.0


def span(who: str, name: str, start_ms: float, end_ms: float, segment: int | None, number: int = 4) -> Span:
    return Span(who, name, START_MS + start_ms, START_MS + end_ms, number, segment)


def overlapped(number: int = 4, device: str = "device-1") -> list[Span]:
    """Three segments: sampling 100 ms each, link 200 ms each, device 50 + 100 ms each, no time lost."""
    found = [span("cloud", "round", -20, 2000, None, number)]
    for k in range(3):
        arrived_ms = 300 + 200 * k
        found += [
            span("cloud", "guide_sampled", 100 * k, 100 * k + 100, k, number),
            span(device, "guide_sent", arrived_ms - 200, arrived_ms - 180, k, number),
            span(device, "guide_arrived", arrived_ms - 150, arrived_ms, k, number),  # its first byte takes 50
            span(device, "perturb", arrived_ms, arrived_ms + 50, k, number),
            span(device, "run", arrived_ms + 50, arrived_ms + 150, k, number),
        ]
    found.append(span(device, "scalars_sent", 860, 870, None, number))
    return found


def times(found: Pipelined | None) -> list[float]:
    assert found is not None
    return [found.makespan_s, found.bound_s, found.serial_s]


def test_a_round_without_lost_time_is_at_its_bound() -> None:
    found = pipelined.pipelined(overlapped(), 4, "device-1")
    assert times(found) == pytest.approx([0.85, 0.85, 0.3 + 0.6 + 0.45])
    assert found is not None
    assert [bar.duration_s for bar in found.arrived] == pytest.approx([0.2] * 3)
    assert [(bar.segment, round(bar.start_s, 6)) for bar in found.worked] == [(0, 0.3), (1, 0.5), (2, 0.7)]
    assert found.told[0].end_s == pytest.approx(0.87)


def test_a_segment_arrives_with_its_version() -> None:
    with_version = []
    for each in overlapped():
        if each.name == "guide_arrived":
            middle_ms = each.end_ms - 50
            with_version.append(replace(each, name="version_arrived", end_ms=middle_ms))
            each = replace(each, start_ms=middle_ms)
        with_version.append(each)
    found = pipelined.pipelined(with_version, 4, "device-1")
    assert found is not None
    assert times(found) == pytest.approx(times(pipelined.pipelined(overlapped(), 4, "device-1")))
    assert [bar.segment for bar in found.arrived] == [0, 0, 1, 1, 2, 2]


def test_a_version_that_waits_for_its_guide_keeps_no_link_busy() -> None:
    """The version's piece of a segment comes in the first 20 ms of what its guide is sampled in."""
    versions = [span("device-1", "version_arrived", 100 * k, 100 * k + 20, k) for k in range(1)]
    found = pipelined.pipelined([*overlapped(), *versions], 4, "device-1")
    assert found is not None
    assert [round(bar.duration_s, 6) for bar in found.arrived] == [0.02, 0.2, 0.2, 0.2]
    assert found.makespan_s == pytest.approx(0.85)
    assert found.serial_s == pytest.approx(0.02 + 0.3 + 0.6 + 0.45)


def test_waiting_makes_it_longer_than_its_bound() -> None:
    late = [
        Span(s.who, s.name, s.start_ms + 400, s.end_ms + 400, s.round, s.segment)
        if s.name in pipelined.WORK
        else s
        for s in overlapped()
    ]
    assert times(pipelined.pipelined(late, 4, "device-1")) == pytest.approx([1.25, 0.85, 1.35])


def test_a_guide_that_was_there_before_the_round_costs_no_sampling() -> None:
    early = [
        Span(s.who, s.name, s.start_ms - 350, s.end_ms - 350, s.round, s.segment)
        if s.name == "guide_sampled"
        else s
        for s in overlapped()
    ]
    found = pipelined.pipelined(early, 4, "device-1")
    assert found is not None
    assert found.sampled == ()
    assert times(found) == pytest.approx([0.75, 0.6 + 0.15, 0.6 + 0.45])


def test_a_later_group_needs_no_guide_any_more() -> None:
    again = [span("device-1", "run", 850 + 100 * k, 950 + 100 * k, k) for k in range(3)]
    found = pipelined.pipelined([*overlapped(), *again], 4, "device-1")
    assert found is not None
    assert [bar.segment for bar in found.worked] == [0, 1, 2, 0, 1, 2]
    assert times(found) == pytest.approx([1.15, 1.15, 1.35 + 0.3])


def test_without_the_cloud_s_word_the_first_byte_is_the_beginning() -> None:
    known = [s for s in overlapped() if s.name not in ("guide_sent", "guide_sampled")]
    found = pipelined.pipelined(known, 4, "device-1")
    assert found is not None
    assert [bar.duration_s for bar in found.arrived] == pytest.approx([0.15, 0.2, 0.2])


def test_no_guide_is_no_pipeline() -> None:
    assert pipelined.pipelined(overlapped(), 3, "device-1") is None
    assert pipelined.pipelined(overlapped(), 4, "device-2") is None
    assert pipelined.typical([span("device-0", "compute", 0, 1, None)]) == (None, 0)


def test_the_typical_round_is_the_one_in_the_middle() -> None:
    slow = [
        Span(s.who, s.name, s.start_ms, s.end_ms + (500 if s.name == "run" else 0), s.round, s.segment)
        for s in overlapped(5)
    ]
    found, count = pipelined.typical([*overlapped(), *slow, *overlapped(6, "device-2")])
    assert count == 3
    assert found is not None
    assert found.makespan_s == pytest.approx(0.85)
    assert "0.85 s" in pipelined.line(found, count)
    assert "the median of 3" in pipelined.line(found, count)


def test_the_picture_is_a_png_that_says_the_three_times() -> None:
    found = pipelined.pipelined(overlapped(), 4, "device-1")
    assert found is not None
    light, dark = round_plot.draw(found), round_plot.draw(found, dark=True)
    assert light.startswith(b"\x89PNG")
    assert light != dark
    assert round_plot.words(found) == (
        "makespan 0.85 s (dashed), flow-shop bound 0.85 s, one after the other 1.35 s"
    )
