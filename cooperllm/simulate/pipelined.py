"""One round of one device as a pipeline: what sampling, link and device did with every segment, and what the
flow shop says that it should have taken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median_low
from typing import Any

from cloud_service.pipeline import makespan_s, serial_s
from cooperllm.simulate.timeline import CLOUD, Span

WORK = ("perturb", "run")
"""What a device does with a segment."""

ARRIVALS = ("version_arrived", "guide_arrived")
"""What it waits for before that."""


@dataclass(frozen=True)
class Bar:
    """A stage at work on one segment, in seconds since the round began."""

    segment: int
    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        """How long."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Pipelined:
    """One round of one device. `sampled`, `arrived` and `worked` are the stages' bars, in order of time; the
    scalars of each group of directions went up in `told`.

    `bound_s` is the flow shop's makespan of the bars' durations, `serial_s` their sum; `makespan_s` is what
    it took, from the first bar to the end of the last work. All exclude waiting for the device's check-in.
    """

    round: int
    device: str
    sampled: tuple[Bar, ...]
    arrived: tuple[Bar, ...]
    worked: tuple[Bar, ...]
    told: tuple[Bar, ...]

    @property
    def makespan_s(self) -> float:
        """From the first bar to the end of the last work."""
        first_s = min(bar.start_s for bar in (*self.sampled, *self.arrived, *self.worked))
        return self.worked[-1].end_s - first_s

    @property
    def bound_s(self) -> float:
        """What the slowest stage, filled and drained, takes."""
        return makespan_s(self._stages_s())

    @property
    def serial_s(self) -> float:
        """What one thing after the other takes."""
        return serial_s(self._stages_s())

    def _stages_s(self) -> list[list[float]]:
        """p(l, k): a job is a stretch of work on a segment; a segment is sampled and sent for its first."""
        before: list[dict[int, float]] = [defaultdict(float), defaultdict(float)]
        for stage, bars in zip(before, (self.sampled, self.arrived), strict=True):
            for bar in bars:  # of the link, there may be two: the version's and the guide's
                stage[bar.segment] += bar.duration_s
        return [
            *([stage.pop(bar.segment, 0.0) for bar in self.worked] for stage in before),
            [bar.duration_s for bar in self.worked],
        ]


def pipelined(spans: Iterable[Span], number: int, device: str) -> Pipelined | None:
    """Put a round's spans together; None where no guide arrived or nothing was done with it.

    A segment occupies the link from when it could be sent (it was there, and the one before it had arrived)
    to its last byte: the time until its first byte comes is the link's, too.
    """
    found = [span for span in spans if span.round == number and span.segment is not None]
    own = [span for span in found if span.who == device]
    arrivals = sorted((span for span in own if span.name in ARRIVALS), key=lambda span: span.end_ms)
    work = sorted((span for span in own if span.name in WORK), key=lambda span: span.start_ms)
    wanted = {span.segment for span in arrivals if span.name == "guide_arrived"}
    if not wanted or not work:
        return None
    sampling = sorted(
        (s for s in found if s.who == CLOUD and s.name == "guide_sampled" and s.segment in wanted),
        key=lambda span: span.end_ms,
    )
    # A guide that was sampled while the round before was out cost this one nothing.
    opened_ms = min(
        (s.start_ms for s in spans if s.who == CLOUD and s.name == "round" and s.round == number),
        default=arrivals[0].start_ms,
    )
    sampling = [_clipped(span, opened_ms) for span in sampling if span.end_ms > opened_ms]
    sent = [span for span in own if span.name == "guide_sent"]
    zero_ms = min(span.start_ms for span in (*sampling, *sent, *arrivals, *work))
    ready_ms = {span.segment: span.end_ms for span in sampling}
    sent_ms = {span.segment: span.start_ms for span in sent}
    arrived: list[Bar] = []
    free_ms = zero_ms
    for span in arrivals:
        if not arrived:  # nobody knows when it was asked for, unless the cloud tells when it sent it
            could_ms = sent_ms.get(span.segment, span.start_ms)
        elif span.name == "guide_arrived":
            could_ms = (ready_ms | sent_ms).get(span.segment, free_ms)
        else:  # versions are there from the start
            could_ms = free_ms
        arrived.append(_bar(span, zero_ms, min(max(free_ms, could_ms), span.start_ms)))
        free_ms = span.end_ms
    told = [s for s in spans if s.who == device and s.round == number and s.name == "scalars_sent"]
    return Pipelined(
        number,
        device,
        tuple(_bar(span, zero_ms) for span in sampling),
        tuple(arrived),
        _stretches([_bar(span, zero_ms) for span in work]),
        tuple(_bar(span, zero_ms) for span in sorted(told, key=lambda span: span.start_ms)),
    )


def typical(spans: Sequence[Span]) -> tuple[Pipelined | None, int]:
    """The round and device in the middle by makespan, and of how many; (None, 0) where no guide was sent."""
    keys = sorted({(s.round, s.who) for s in spans if s.name == "guide_arrived" and s.round is not None})
    by_round = {number: [s for s in spans if s.round == number] for number, _ in keys}
    every = (pipelined(by_round[number], number, device) for number, device in keys)
    found = [item for item in every if item is not None]
    if not found:
        return None, 0
    middle_s = median_low(item.makespan_s for item in found)
    return next(item for item in found if item.makespan_s == middle_s), len(found)


def facts(found: Pipelined, count: int) -> dict[str, Any]:
    """A round for programs."""
    return {
        "round": found.round,
        "device": found.device,
        "median_of": count,
        "makespan_s": found.makespan_s,
        "bound_s": found.bound_s,
        "serial_s": found.serial_s,
    }


def line(found: Pipelined, count: int) -> str:
    """The same for people."""
    return (
        f"Guides: {found.makespan_s:.2f} s from the first segment to the last run ({found.device} in round "
        f"{found.round}, the median of {count}); the flow shop of these stages needs {found.bound_s:.2f} s, "
        f"one thing after the other {found.serial_s:.2f} s"
    )


def _stretches(bars: Sequence[Bar]) -> tuple[Bar, ...]:
    """Neighbours of the same segment as one bar, pauses included: between them nobody is waited for."""
    found = []
    for segment, same in groupby(bars, key=lambda bar: bar.segment):
        group = list(same)
        found.append(Bar(segment, group[0].start_s, max(bar.end_s for bar in group)))
    return tuple(found)


def _clipped(span: Span, start_ms: float) -> Span:
    return Span(span.who, span.name, max(span.start_ms, start_ms), span.end_ms, span.round, span.segment)


def _bar(span: Span, zero_ms: float, start_ms: float | None = None) -> Bar:
    first_ms = span.start_ms if start_ms is None else start_ms
    return Bar(span.segment or 0, (first_ms - zero_ms) / 1000, (span.end_ms - zero_ms) / 1000)
