"""What a session did and when: events for whoever watches here, spans and byte counts for the cloud's
timeline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from protos import federation_pb2 as pb

from .segment_work import SegmentWork

MOST_SPANS = 256  # a device that waits for long checks in often; the newest spans are what matters


class Traffic(Protocol):
    """Bytes so far, and the speed of the last download."""

    downlink_bytes: int
    uplink_bytes: int
    download_bytes_per_s: float


@dataclass(frozen=True)
class Event:
    """Something that happened. `time_ms` is the device's clock, milliseconds since 1970."""

    name: str
    time_ms: float
    fields: dict[str, object] = field(default_factory=dict)


class Journal:
    """Spans since the last report that was acknowledged, and what to tell about them."""

    def __init__(
        self, traffic: Traffic, on_event: Callable[[Event], None], time_s: Callable[[], float]
    ) -> None:
        self._traffic, self._on_event, self._time_s = traffic, on_event, time_s
        self._spans: list[pb.Span] = []
        self._told_spans = 0  # of these, already part of an event
        self._counted_bytes = (0, 0)

    def now_ms(self) -> float:
        """The device's clock, milliseconds since 1970."""
        return self._time_s() * 1000

    def tell(self, name: str, **fields: object) -> float:
        """Tells an event; answers its time in milliseconds."""
        time_ms = self.now_ms()
        self._on_event(Event(name, time_ms, fields))
        return time_ms

    def phase(self, name: str) -> float:
        """Tells that a phase begins; answers when, in milliseconds."""
        return self.tell("phase", phase=name)

    def version(self, update: pb.VersionUpdate) -> None:
        """Tells that a version was reached."""
        sha256, form = update.adapter_sha256.hex(), update.WhichOneof("form")
        self.tell("version", version=update.version, adapter_sha256=sha256, form=form)

    def span(self, name: str, start_ms: float, end_ms: float | None = None) -> float:
        """Notes that something that began at `start_ms` has ended, just now where it is not said when.
        Answers how many milliseconds it took.
        """
        span = pb.Span(name=name, start_ms=start_ms)
        span.end_ms = max(start_ms, self.now_ms() if end_ms is None else end_ms)
        self._spans.append(span)
        self._trim()
        return span.end_ms - start_ms

    def _trim(self) -> None:
        surplus = len(self._spans) - MOST_SPANS
        if surplus > 0:
            del self._spans[:surplus]
            self._told_spans = max(0, self._told_spans - surplus)

    def segment_span(self, name: str, segment: int, start_ms: float, end_ms: float) -> None:
        """Notes what was done about one segment, and when."""
        self._spans.append(
            pb.Span(name=name, segment=segment, start_ms=start_ms, end_ms=max(start_ms, end_ms))
        )
        self._trim()

    def timing(self, work: SegmentWork) -> pb.Timing:
        """The timing of a report: bytes are counted from the timing before this one."""
        downlink_bytes, uplink_bytes = self._counted_bytes
        self._counted_bytes = (self._traffic.downlink_bytes, self._traffic.uplink_bytes)
        return pb.Timing(
            spans=self._spans,
            downlink_bytes=self._counted_bytes[0] - downlink_bytes,
            uplink_bytes=self._counted_bytes[1] - uplink_bytes,
            segment_runs=sum(work.runs),
            pair_runs=sum(work.pairs),
            segment_ms=work.run_ms,
            download_bytes_per_s=self._traffic.download_bytes_per_s,
        )

    def acknowledged(self, report: pb.Report, round_number: int, duplicate: bool, start_ms: float) -> None:
        """Tells of a report that the cloud has. Its own span goes out with the next one."""
        self.span("report", start_ms)
        spans, self._spans = self._spans[self._told_spans :], self._spans[-1:]
        self._told_spans = 1
        self.tell(
            "report",
            task_id=report.task_id,
            round=round_number,
            status=pb.ReportStatus.Name(report.status).removeprefix("REPORT_STATUS_"),
            detail=report.detail,
            scalars=len(report.scalars),
            skipped_examples=report.skipped_examples,
            truncated_examples=report.truncated_examples,
            downlink_bytes=report.timing.downlink_bytes,
            uplink_bytes=report.timing.uplink_bytes,
            duplicate=duplicate,
            spans=[_told(span) for span in spans],
        )


def _told(span: pb.Span) -> dict[str, object]:
    told = {"name": span.name, "start_ms": span.start_ms, "end_ms": span.end_ms}
    return told | {"segment": span.segment} if span.HasField("segment") else told
