"""The Chrome trace names everybody, keeps lanes apart and loses no time."""

import json
from pathlib import Path

import pytest

from cooperllm.simulate import timeline
from cooperllm.simulate.rounds import History, Operator, guide_spans
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


def test_segments_have_lanes_of_their_own_and_one_colour_in_all() -> None:
    spans = [
        *SPANS,
        Span("cloud", "guide_sampled", 990.0, 1_000.0, 1, 2),
        Span("device-0", "guide_sent", 1_000.0, 1_001.0, 1, 2),
        Span("device-0", "guide_arrived", 1_000.0, 1_004.0, 1, 2),
        Span("device-0", "perturb", 1_004.0, 1_005.0, 1, 2),
        Span("device-0", "run", 1_005.0, 1_050.0, 1, 2),
        Span("device-0", "scalars_sent", 1_050.0, 1_051.0, 1),
    ]
    events = timeline.chrome_trace(spans)["traceEvents"]
    lanes = {
        process: [e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == process]
        for process in (1, 2)
    }
    assert lanes[1] == ["guide sampled", "aggregate"]
    assert lanes[2] == [
        "guide sent", "downlink", "guide arrived", "compute", "perturb", "run", "uplink", "scalars sent",
    ]  # fmt: skip
    named = [event for event in events if event["ph"] == "X" and event["name"] == "segment 2"]
    assert [event["cat"] for event in named] == [
        "guide sampled",
        *lanes[2][:1],
        *lanes[2][2:3],
        *lanes[2][4:6],
    ]
    assert {(event["args"]["round"], event["args"]["segment"]) for event in named} == {(1, 2)}
    # What is told by segment is a closer look at the rest, not more of it.
    assert timeline.busy_s(spans) == timeline.busy_s(SPANS)


def test_busy_time_is_the_devices_alone() -> None:
    assert timeline.busy_s(SPANS) == pytest.approx({"downlink": 0.004, "compute": 0.0525, "uplink": 0.0015})


def test_no_spans_are_an_empty_trace() -> None:
    assert timeline.chrome_trace([])["traceEvents"] == []


def test_what_the_service_tells_of_guides_becomes_spans() -> None:
    details = [
        {
            "round": 3,
            "guide_segments": [
                {"level": 0, "segment": 1, "start_ms": 10, "end_ms": 20},
                {"level": 4, "segment": 1, "start_ms": 20, "end_ms": 21},
            ],
            "tasks": [
                {"task_id": "a", "guide_sent": [{"segment": 1, "start_ms": 21.5, "end_ms": 30.0}]},
                {"task_id": "of a device that never reported", "guide_sent": [{"segment": 1}]},
            ],
        }
    ]
    assert guide_spans(details, {"a": "device-0"}) == [
        Span("cloud", "guide_sampled", 10.0, 20.0, 3, 1),
        Span("cloud", "guide_coded", 20.0, 21.0, 3, 1),
        Span("device-0", "guide_sent", 21.5, 30.0, 3, 1),
    ]


class Answering(Operator):
    """An operator's view without a service."""

    def get(self, path: str) -> bytes:
        asked.append(path)
        return json.dumps({"round": int(path.rpartition("/")[2]), "tasks": [], "reports": ["long"]}).encode()


asked: list[str] = []


def test_history_reads_each_round_once_and_not_all_at_a_time() -> None:
    history, operator = History(), Answering("", "")
    history.read(operator, range(3), most=2)
    assert [row["round"] for row in history.rows()] == [0, 1]
    history.read(operator, range(3), most=2)
    assert history.rows() == [{"round": number, "tasks": []} for number in range(3)]
    assert asked == [f"/v1/rounds/{number}" for number in range(3)]
