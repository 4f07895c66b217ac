"""What is said of a chain's stages: phrases, the summary of a run, spans of the timeline, the live view."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cooperllm.simulate import stages, timeline
from cooperllm.simulate.ledger import Ledger, Score
from cooperllm.simulate.live import Lines, picture
from cooperllm.simulate.processes import Event
from cooperllm.simulate.records import RoundRow
from cooperllm.simulate.settings import job_table
from cooperllm.simulate.timeline import Span


def facts(stage: int, segments: list[int], exit_segment: int = 0) -> dict[str, Any]:
    return {
        "stage": stage, "stages": 3, "start": 1, "segments": segments, "exit_segment": exit_segment,
        "global_weight": 0.2 if exit_segment else 0.0, "segment_scores": [0.99, 0.8, 0.7],
    }  # fmt: skip


CHAIN = [None, facts(0, [1, 2], 3), facts(0, [1, 2], 3), facts(1, [2, 3]), facts(2, [1, 2, 3]), None]
ENDED = {2: "converged", 3: "share"}


def row(version: int, stage: Mapping[str, Any] | None) -> RoundRow:
    diagnostics = {"stage_ended": ENDED.get(version, "")}
    return RoundRow("cooperllm", 0, version, "aa", {}, 0.5, 0.7, 1.0, {}, {}, diagnostics, stage)


ROWS = [row(number, stage) for number, stage in enumerate(CHAIN)]


def test_a_run_names_its_start_its_scores_and_its_stages() -> None:
    found = stages.summary(ROWS)
    assert found is not None
    assert (found["start"], found["segment_scores"]) == (1, [0.99, 0.8, 0.7])
    assert [(item["segments"], item["rounds"]) for item in found["stages"]] == [
        ([1, 2], [1, 2]), ([2, 3], [3, 3]), ([1, 2, 3], [4, 4]),
    ]  # fmt: skip
    assert stages.lines(found) == [
        "Chain: starts at segment 1 (mean CKA by segment 0.990 0.800 0.700)",
        "  stage 1: segments 1-2, exit after segment 2, rounds 1-2, converged",
        "  stage 2: segments 2-3 and head, rounds 3-3, used its share of the rounds",
        "  stage 3: segments 1-3 and head, rounds 4-4, ended with the job",
    ]
    assert stages.summary([row(0, None), row(1, None)]) is None


def test_stages_have_one_lane_in_the_timeline() -> None:
    rounds = [
        {"stage": stage, "opened_ms": 1000 * number, "closed_ms": 1000 * number + 900 if number < 4 else 0}
        for number, stage in enumerate(CHAIN)
    ]
    found = stages.spans(rounds)
    assert found == [
        Span("cloud", "stage 1/3: segments 1-2, exit after segment 2", 1000.0, 2900.0),
        Span("cloud", "stage 2/3: segments 2-3 and head", 3000.0, 3900.0),  # the third is not over
    ]
    assert {span.lane for span in found} == {"stage"}
    assert len(timeline.chrome_trace(found)["traceEvents"]) == 5  # the cloud, its order, one lane, two spans


def test_a_watcher_sees_the_stage(capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(devices=1, rounds=6)
    job = {"status": "running", "detail": "", "version": 2, "adapter_sha256": "aa", "stage": CHAIN[2]}
    ledger.take(Event("cloud", {"event": "polled", "job": job, "versions": [], "rounds": []}))
    ledger.scores[2] = Score(0.5, 0.7)
    view = Lines()
    view.begin("a run", ledger)
    view.end()
    phrase = "stage 1/3: segments 1-2, exit after segment 2"
    assert capsys.readouterr().out.rstrip().endswith(f", {phrase}")
    console = Console(file=io.StringIO(), width=300)
    console.print(picture("a run", ledger, elapsed_s=1.0))
    assert f"round 2/6, {phrase}" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("estimator", ["chainfed", "fedspzo"])
def test_a_whole_chain_learns_from_devices_alone_unless_told_otherwise(
    tmp_path: Path, estimator: str
) -> None:
    table = job_table(None, {"estimator": estimator})
    assert (table["active_segments"], table["guide_weight"], table["rounds"]) == ("all", 0.0, 40)
    file = tmp_path / "job.toml"
    file.write_text('guide_weight = "auto"\n')
    given = job_table(file, {"estimator": estimator, "rounds": 7})
    assert (given["guide_weight"], given["rounds"]) == ("auto", 7)
    assert "guide_weight" not in job_table(None, {"estimator": "zgr"})
