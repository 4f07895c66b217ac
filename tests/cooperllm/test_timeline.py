"""The Chrome trace names everybody, keeps lanes apart and loses no time."""

import json
from pathlib import Path

import pytest

from cooperllm.simulate import timeline
from cooperllm.simulate.timeline import Span

SPANS = [
    Span("device-0", "guides", 1_000.0, 1_004.0, 1),
    Span("device-0", "compute", 1_004.0, 1_054.5, 1),
    Span("device-0", "report", 1_054.5, 1_056.0, 1),
    Span("device-1", "compute", 1_001.0, 1_003.0, 1),
    Span("cloud", "aggregate", 1_056.0, 1_057.0, 1),
]


def test_spans_become_complete_events_in_microseconds(tmp_path: Path) -> None:
    timeline.write(tmp_path / "timeline.json", SPANS)
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == len(SPANS)
    compute = next(event for event in complete if event["name"] == "compute" and event["dur"] > 10_000)
    assert (compute["ts"], compute["dur"], compute["args"]) == (4_000.0, 50_500.0, {"round": 1})
    processes = {event["args"]["name"]: event["pid"] for event in events if event["name"] == "process_name"}
    assert list(processes) == ["cloud", "device-0", "device-1"]
    lanes = [
        e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == processes["device-0"]
    ]
    assert lanes == ["downlink", "compute", "uplink"]


def test_busy_time_is_the_devices_alone() -> None:
    assert timeline.busy_s(SPANS) == pytest.approx({"downlink": 0.004, "compute": 0.0525, "uplink": 0.0015})


def test_no_spans_are_an_empty_trace() -> None:
    assert timeline.chrome_trace([])["traceEvents"] == []
