"""What a watcher sees: every scored version once as a line, or a table of what each device is doing."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.live import Live

from cooperllm.simulate.ledger import Ledger, Score
from cooperllm.simulate.live import Lines, Silent, Terminal, picture, watching


def ledger() -> Ledger:
    made = Ledger(devices=2, rounds=10)
    made.sha256_by_version = {0: "aa", 1: "bb"}
    made.devices["device-0"].phase = "compute"
    made.devices["device-0"].version = 1
    made.devices["device-1"].downlink_bytes = 2_500_000
    made.scores[0] = Score(0.5, 0.7)
    return made


def test_lines_tell_each_scored_version_once(capsys: pytest.CaptureFixture[str]) -> None:
    view, watched = Lines(), ledger()
    view.begin("a run", watched)
    view.refresh()
    view.refresh()
    watched.scores[1] = Score(0.75, 0.6)
    view.end()
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "  a run: round 0/10, accuracy 50.0%, loss 0.700, 2.5 MB down, 0 B up",
        "  a run: round 1/10, accuracy 75.0%, loss 0.600, 2.5 MB down, 0 B up",
    ]


def test_the_table_shows_progress_accuracy_traffic_and_every_device() -> None:
    console = Console(file=io.StringIO(), width=140)
    console.print(picture("a run", ledger(), elapsed_s=12.0))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in (
        "a run",
        "round 1/10",
        "12 s",
        "accuracy 50.0%",
        "2.5 MB",
        "device-0",
        "compute",
        "device-1",
        "starting",
    ):
        assert text in shown, text


def test_the_terminal_leaves_one_line_of_a_run() -> None:
    console = Console(file=io.StringIO(), width=140, force_terminal=True)
    with Live(console=console, auto_refresh=False) as live:
        view = Terminal(live)
        view.begin("a run", ledger())
        view.refresh()
        view.end()
    assert "a run: accuracy 50.0% after 1 rounds" in console.file.getvalue()  # type: ignore[attr-defined]


def test_json_output_is_watched_by_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    with watching("json") as view:
        assert isinstance(view, Silent)
        view.begin("a run", ledger())
        view.say("nothing")
        view.refresh()
        view.end()
    assert capsys.readouterr().out == ""
