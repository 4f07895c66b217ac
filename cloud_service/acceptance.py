"""Whether a report, or a part of one, is taken: its lease is still its client's, and it answers what its task
asked.

WireError says what to answer instead.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection, Row

from cloud_service import wire
from cloud_service.artifacts import Artifacts
from cloud_service.plan import ClientTask, RoundPlan
from cloud_service.store import latest_version, one, open_round, tasks
from protos import federation_pb2 as pb


def live(lease: Row[Any] | None) -> Row[Any]:
    """The lease that a report is about, when it is still its holder's."""
    if lease is None or lease.status in ("reported", "refused"):
        raise wire.WireError(
            "NOT_FOUND", "this task is unknown or was reported: drop the report, check in again"
        )
    if lease.status in ("replaced", "closed"):
        raise wire.WireError("DEADLINE_EXCEEDED", "the lease expired: drop the report and check in again")
    return lease


def measuring(
    connection: Connection, artifacts: Artifacts, client_id: str, task_id: str
) -> tuple[RoundPlan, ClientTask]:
    """What a client that is at work on directions was asked, and the plan of its round."""
    lease = one(connection, tasks, tasks.c.task_id == task_id, tasks.c.holder == client_id)
    out = open_round(connection)
    if lease is None or lease.status != "leased" or lease.kind != "directions" or out is None:
        raise wire.WireError("NOT_FOUND", "this task is unknown or its lease has expired: check in again")
    plan = RoundPlan.from_bytes(artifacts.get(out.plan_sha256))
    asked = plan.task(client_id)
    if asked is None or lease.round != out.number:
        raise wire.WireError("NOT_FOUND", "this task is over: check in again")
    return plan, asked


def check(connection: Connection, artifacts: Artifacts, lease: Row[Any], report: pb.Report) -> None:
    """Checks a report of the lease's holder against the round that is out and against its task."""
    target = latest_version(connection)
    out = open_round(connection)
    if target is None or out is None or out.number != lease.round:
        raise wire.WireError("DEADLINE_EXCEEDED", "the round is over: drop the report and check in again")
    if report.status != pb.REPORT_STATUS_OK:
        return
    adapter = bytes.fromhex(target.adapter_sha256)
    if lease.kind == "evaluate":
        wire.check_evaluation_report(report, adapter)
        return
    plan = RoundPlan.from_bytes(artifacts.get(out.plan_sha256))
    if lease.kind == "score_segments":
        wire.check_scores_report(report, plan.scores, adapter)
        return
    asked = plan.task(lease.holder)
    assert asked is not None  # the plan that names the holder was committed with the lease
    wire.check_directions_report(report, asked.scalars, adapter, plan.settings.scalar_clip)
