"""What a run along a chain (ChainFed) says of its start and its stages, in words, spans and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cooperllm.simulate.ledger import SERVICE
from cooperllm.simulate.records import RoundRow
from cooperllm.simulate.timeline import Span

ENDS = {"converged": "converged", "share": "used its share of the rounds", "": "ended with the job"}


@dataclass(frozen=True)
class Trained:
    """One stage as it went: rounds `first_round` to `last_round` and why it ended, in the words of ENDS."""

    facts: Mapping[str, Any]
    first_round: int
    last_round: int
    ended: str


def words(facts: Mapping[str, Any] | None) -> str:
    """A stage in one phrase; "" without one."""
    if not facts:
        return ""
    return f"stage {facts['stage'] + 1}/{facts['stages']}: {_window(facts)}"


def _window(facts: Mapping[str, Any]) -> str:
    first, last = facts["segments"][0], facts["segments"][-1]
    named = f"segment {first}" if first == last else f"segments {first}-{last}"
    exit_segment = facts["exit_segment"]
    return f"{named}, exit after segment {exit_segment - 1}" if exit_segment else f"{named} and head"


def trained(rows: Sequence[RoundRow]) -> list[Trained]:
    """The stages of one run, in order; none when it was no chain."""
    found: list[Trained] = []
    for row in rows:
        if row.stage is None:
            continue
        ended = ENDS[str(row.diagnostics.get("stage_ended", ""))]
        first = row.version
        if found and found[-1].facts["stage"] == row.stage["stage"]:
            first = found.pop().first_round
        found.append(Trained(row.stage, first, row.version, ended))
    return found


def summary(rows: Sequence[RoundRow]) -> dict[str, Any] | None:
    """Start, scores and stages of one run for programs; None when it was no chain."""
    stages = trained(rows)
    if not stages:
        return None
    return {
        "start": stages[0].facts["start"],
        "segment_scores": stages[0].facts["segment_scores"],
        "stages": [
            {
                "segments": stage.facts["segments"],
                "exit_segment": stage.facts["exit_segment"],
                "global_weight": stage.facts["global_weight"],
                "rounds": [stage.first_round, stage.last_round],
                "ended": stage.ended,
            }
            for stage in stages
        ],
    }


def lines(chain: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    scores = " ".join(f"{score:.3f}" for score in chain["segment_scores"])
    said = f"mean CKA by segment {scores}" if scores else "nobody was asked for scores"
    found = [f"Chain: starts at segment {chain['start']} ({said})"]
    for number, stage in enumerate(chain["stages"], start=1):
        first, last = stage["rounds"]
        found.append(f"  stage {number}: {_window(stage)}, rounds {first}-{last}, {stage['ended']}")
    return found


def spans(rounds: Sequence[Mapping[str, Any]]) -> list[Span]:
    """The stages in the cloud's lane of the timeline, from the opening of the first round to the last's
    closing.
    """
    found: dict[int, Span] = {}
    for row in rounds:
        facts = row["stage"]
        if facts is None or not row["closed_ms"]:
            continue
        before = found.get(facts["stage"])
        start_ms = float(row["opened_ms"]) if before is None else before.start_ms
        found[facts["stage"]] = Span(SERVICE, words(facts), start_ms, float(row["closed_ms"]))
    return list(found.values())
