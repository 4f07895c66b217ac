"""The account of what a device disclosed: when a task is charged to its round, and what the list of
disclosures says.

A task is charged whole, once: in the same write as its report, or, where scalars go ahead of the report,
before the first of them leaves. `State.charged` then marks the task under way as paid for, so that neither
its report nor a process that starts again pays a second time. The mark names all that the scalars depend on,
and goes with the task's finished scalars: a task that is measured anew, or another one, pays again.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from protos import federation_pb2 as pb

from .budget import NOTHING, Disclosure, charge, disclosed_in

if TYPE_CHECKING:
    from .store import State
    from .tasks import Finding

MOST_DISCLOSURES = 128  # every write of the state writes them all


def disclosed_before(task: pb.Task, state: State) -> list[int]:
    """What a task's round has cost without this task: [scalars, of these in the head alone].

    Raises BudgetExceeded for a round that is too long ago: see `disclosed_in`.
    """
    account, paid = disclosed_in(task.round, state.disclosed), own_charge(task, state)
    return [account[0] - int(paid[1]), account[1] - int(paid[2])] if paid else account


def own_charge(task: pb.Task, state: State) -> list[str | int]:
    """The mark in the state, if it is this task's; else empty."""
    return state.charged if state.charged and state.charged[0] == _name(task) else []


def ahead_changes(
    task: pb.Task, disclosure: Disclosure, state: State, now_ms: float, size_bytes: int
) -> dict[str, object]:
    """What the state remembers before scalars leave ahead of their report; nothing where it does already."""
    if own_charge(task, state):
        return {}
    kind = task.WhichOneof("kind") or ""
    entry = [now_ms, task.round, kind, disclosure.scalars, disclosure.head_scalars, size_bytes]
    return {
        "disclosed": charge(state.disclosed, task.round, disclosure),
        "charged": [_name(task), disclosure.scalars, disclosure.head_scalars],
        "disclosures": [*state.disclosures, entry][-MOST_DISCLOSURES:],
    }


def report_changes(
    task: pb.Task, finding: Finding, state: State, now_ms: float, size_bytes: int
) -> dict[str, object]:
    """What the state remembers of a finding whose report has so many bytes."""
    paid = own_charge(task, state)
    entry = _entry(task, finding, now_ms, size_bytes)
    # One entry for what went ahead and the report together; a refusal leaves what went ahead as it stands.
    before = state.disclosures[:-1] if paid and finding.scalars else state.disclosures
    changes: dict[str, object] = {"charged": [], "disclosures": [*before, entry][-MOST_DISCLOSURES:]}
    if finding.disclosure != NOTHING and not paid:
        changes["disclosed"] = charge(state.disclosed, task.round, finding.disclosure)
    if finding.evaluation is not None:
        newest = {key: value for key, value in state.evaluated.items() if int(key) + 64 > task.round}
        changes["evaluated"] = newest | {str(task.round): state.adapter_sha256}
    return changes


def _entry(task: pb.Task, finding: Finding, now_ms: float, size_bytes: int) -> list[float | int | str]:
    """What a report of so many bytes tells: an entry of State.disclosures."""
    evaluated = 0 if finding.evaluation is None else 3  # mean loss, right answers, count
    scalars = len(finding.scalars) + len(finding.segment_scores) + evaluated
    kind = task.WhichOneof("kind") or ""
    return [now_ms, task.round, kind, scalars, finding.disclosure.head_scalars, size_bytes]


def _name(task: pb.Task) -> str:
    """A hash of all that a task's scalars depend on, but for guides: they are asked about once a name."""
    asked = pb.Task(task_id=task.task_id, round=task.round, bundle_sha256=task.bundle_sha256)
    asked.update.adapter_sha256 = task.update.adapter_sha256
    asked.directions.CopyFrom(task.directions)
    return hashlib.sha256(asked.SerializeToString(deterministic=True)).hexdigest()
