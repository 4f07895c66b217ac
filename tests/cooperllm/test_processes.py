"""Child processes: events in order, stray output in the log, and nobody left behind."""

import os
import sys
import time
from pathlib import Path

import pytest

from cooperllm.simulate.processes import Children, Event

TALKER = """
import json, sys
print(json.dumps({"event": "first"}), flush=True)
print("not an event", flush=True)
print("a complaint", file=sys.stderr, flush=True)
print(json.dumps({"event": "second", "value": 2}), flush=True)
sys.exit(3)
"""
# Ignores SIGTERM and has a child of its own in the same group.
STUBBORN = """
import json, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps({"event": "up", "inner": inner.pid}), flush=True)
time.sleep(600)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def wait_for(children: Children, kind: str) -> Event:
    while True:
        event = children.next_event(timeout_s=20)
        assert event is not None
        if event.kind == kind:
            return event


def test_events_come_in_order_and_other_output_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "talker.log"
    with Children() as children:
        child = children.start("talker", python(TALKER), log)
        events = []
        while not events or events[-1].kind != "exited":
            event = children.next_event(timeout_s=20)
            assert event is not None
            events.append(event)
        assert [event.body for event in events] == [
            {"event": "first"},
            {"event": "second", "value": 2},
            {"event": "exited", "code": 3},
        ]
        assert sorted(log.read_text().splitlines()) == ["a complaint", "not an event"]
        assert child.last_words() in ("a complaint", "not an event")


def test_an_error_in_the_block_stops_even_a_stubborn_group(tmp_path: Path, stop_grace_s: float) -> None:
    pids: list[int] = []

    def broken() -> None:
        with Children(stop_grace_s) as children:
            child = children.start("stubborn", python(STUBBORN), tmp_path / "log")
            pids.extend([child.process.pid, int(wait_for(children, "up").body["inner"])])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in pids)


@pytest.fixture
def stop_grace_s() -> float:
    return 0.3


def test_a_killed_child_can_be_started_again_under_its_name(tmp_path: Path) -> None:
    with Children(0.3) as children:
        for _ in range(2):
            child = children.start("stubborn", python(STUBBORN), tmp_path / "log")
            wait_for(children, "up")
            with pytest.raises(ValueError, match="still running"):
                children.start("stubborn", python(STUBBORN), tmp_path / "log")
            child.kill()
            assert wait_for(children, "exited").body["code"] == -9
