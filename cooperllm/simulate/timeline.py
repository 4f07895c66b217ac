"""timeline.json: who was busy with what, as a Chrome trace (open it in ui.perfetto.dev or chrome://tracing)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLOUD = "cloud"

LANES: dict[str, str] = {
    "check_in": "check-in",
    "fetch": "downlink",
    "guides": "downlink",
    "compute": "compute",
    "report": "uplink",
}
"""The lanes of a device, by the name of a span (federation.proto, Span)."""

SEGMENT_LANES: dict[str, str] = {
    "guide_sampled": "guide sampled",
    "guide_coded": "guide coded",
    "guide_sent": "guide sent",
    "version_arrived": "version arrived",
    "guide_arrived": "guide arrived",
    "perturb": "perturb",
    "run": "run",
    "scalars_sent": "scalars sent",
}
"""Lanes of what is done segment by segment, within a round, "downlink", "compute" and "uplink"."""

ORDER = (
    "round", "guide sampled", "guide coded", "guide sent", "downlink", "version arrived", "guide arrived",
    "compute", "perturb", "run", "uplink", "scalars sent",
)  # fmt: skip
"""From top to bottom, as a guide passes them; other lanes follow."""


@dataclass(frozen=True)
class Span:
    """Someone's time, in milliseconds since 1970. `who` is "cloud" or a device's name."""

    who: str
    name: str
    start_ms: float
    end_ms: float
    round: int | None = None
    segment: int | None = None

    @property
    def lane(self) -> str:
        """The row of the trace in which the span is drawn."""
        word = self.name.partition(" ")[0]  # "stage 1/4: segments 0-1" is drawn with the other stages
        return LANES.get(word) or SEGMENT_LANES.get(word, word)

    @property
    def title(self) -> str:
        """What stands on the span: viewers colour by it, so a segment has one colour in all lanes."""
        return self.name if self.segment is None else f"segment {self.segment}"


def chrome_trace(spans: Sequence[Span]) -> dict[str, Any]:
    """Arrange spans as a Chrome trace: one process per participant, one thread per lane; the first span
    starts at 0.

    Format: "Trace Event Format", Google, complete events ("X") in microseconds.
    """
    start_ms = min((span.start_ms for span in spans), default=0.0)
    participants = sorted({span.who for span in spans}, key=lambda who: (who != CLOUD, who))
    events: list[dict[str, Any]] = []
    for process, who in enumerate(participants, start=1):
        events.append(_name("process_name", process, 0, who))
        events.append(
            {"ph": "M", "name": "process_sort_index", "pid": process, "args": {"sort_index": process}}
        )
        own = [span for span in spans if span.who == who]
        lanes = sorted({span.lane for span in own}, key=_rank)
        for thread, lane in enumerate(lanes, start=1):
            events.append(_name("thread_name", process, thread, lane))
        for span in own:
            events.append(
                {
                    "ph": "X",
                    "name": span.title,
                    "cat": span.lane,
                    "pid": process,
                    "tid": lanes.index(span.lane) + 1,
                    "ts": round((span.start_ms - start_ms) * 1000, 1),
                    "dur": round(max(span.end_ms - span.start_ms, 0.0) * 1000, 1),
                    "args": _facts(span),
                }
            )
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _rank(lane: str) -> tuple[int, str]:
    return (ORDER.index(lane) if lane in ORDER else len(ORDER)), lane


def _facts(span: Span) -> dict[str, int]:
    facts = {"round": span.round, "segment": span.segment}
    return {name: value for name, value in facts.items() if value is not None}


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def busy_s(spans: Sequence[Span]) -> dict[str, float]:
    """Sum the devices' time by lane, in seconds; what is told segment by segment is in the others already."""
    totals: dict[str, float] = defaultdict(float)
    for span in spans:
        if span.who != CLOUD and span.name not in SEGMENT_LANES:
            totals[span.lane] += (span.end_ms - span.start_ms) / 1000
    return dict(totals)


def write(path: Path, spans: Sequence[Span]) -> None:
    """Write timeline.json."""
    path.write_text(json.dumps(chrome_trace(spans)), encoding="utf-8")
