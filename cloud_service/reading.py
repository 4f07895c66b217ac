"""What operators may read of a job: plain values for JSON, nothing that is not already in the store."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from google.protobuf.json_format import MessageToDict
from sqlalchemy.engine import Connection, Row

from cloud_service.chain import wanted_scores
from cloud_service.compression import AS_SAMPLED, LEVELS
from cloud_service.directions import Guides
from cloud_service.federation import Federation
from cloud_service.opening import may_join, member
from cloud_service.store import (
    Store,
    clients,
    guide_segments,
    guides,
    jobs,
    latest_version,
    metrics,
    one,
    open_round,
    reports,
    tasks,
    versions,
)
from cloud_service.store import rounds as round_rows
from protos import federation_pb2 as pb


def job_status(store: Store) -> str:
    """The job's status: preparing, running, finished or failed."""
    with store.transaction() as connection:
        return str(connection.execute(sa.select(jobs.c.status)).scalar_one())


def all_jobs(federation: Federation) -> list[dict[str, Any]]:
    """The service's one job."""
    with federation.store.transaction() as connection:
        row = one(connection, jobs)
        assert row is not None
        newest, out = latest_version(connection), open_round(connection)
        stage = connection.execute(
            sa.select(metrics.c.value)
            .where(metrics.c.name == "stage")
            .order_by(metrics.c.round.desc())
            .limit(1)
        ).scalar()
        known = connection.execute(sa.select(clients).where(clients.c.checked_in)).all()
    scores = wanted_scores(federation.schedule, 0 if newest is None else newest.number)
    usable = [
        item
        for item in known
        if may_join(federation.job, federation.layout, federation.active_segments, member(item), scores)
    ]
    return [
        {
            "name": row.name,
            "status": row.status,
            "detail": row.detail,
            "bundle_sha256": row.bundle_sha256,
            "scale_sha256": row.scale_sha256,
            "settings": json.loads(row.settings),
            "rounds": federation.job.rounds,
            "round": None if out is None else out.number,
            "version": None if newest is None else newest.number,
            "adapter_sha256": None if newest is None else newest.adapter_sha256,
            "stage": None if stage is None else json.loads(stage),
            "clients": len(known),
            "usable_clients": len(usable),
            "wanted_clients": federation.job.wanted_clients,
        }
    ]


def all_rounds(store: Store) -> list[dict[str, Any]]:
    """Every round without its reports."""
    with store.transaction() as connection:
        rows = connection.execute(sa.select(round_rows).order_by(round_rows.c.number)).all()
        return [_summary(connection, row) for row in rows]


def one_round(federation: Federation, number: int) -> dict[str, Any] | None:
    """A round with everything that is known about it; None when it has not opened yet."""
    with federation.store.transaction() as connection:
        row = one(connection, round_rows, round_rows.c.number == number)
        if row is None:
            return None
        found = _summary(connection, row)
        leases = connection.execute(
            sa.select(tasks).where(tasks.c.round == number).order_by(tasks.c.task_id)
        ).all()
        level_by_name = _levels(connection, number)
        coded = connection.execute(
            sa.select(guide_segments)
            .where(guide_segments.c.round == number)
            .order_by(guide_segments.c.level, guide_segments.c.segment)
        ).all()
        answered = connection.execute(
            sa.select(reports).where(reports.c.round == number).order_by(reports.c.client_id)
        ).all()
    found["tasks"] = [
        {
            "task_id": item.task_id,
            "kind": item.kind,
            "slot": item.slot,
            "holder": item.holder,
            "status": item.status,
            "remaining_ms": item.remaining_ms,
            "guide": item.guide,
            "guide_level": level_by_name.get(item.guide),
            "guide_sent": [
                {"segment": segment, "start_ms": start_ms, "end_ms": end_ms}
                for segment, (start_ms, end_ms) in sorted(federation.deliveries.of(item.task_id).items())
            ],
        }
        for item in leases
    ]
    found["guide_segments"] = [
        {
            "level": item.level,
            "segment": item.segment,
            "size_bytes": item.size_bytes,
            "start_ms": item.start_ms,
            "end_ms": item.end_ms,
        }
        for item in coded
    ]
    # Of the guide as received with the guide as sampled, of the levels that devices had, once it is closed.
    cosines = {int(level): cosine for level, cosine in (found["alignment"] or {}).items()}
    found["guide_cosines"] = {AS_SAMPLED: 1.0, **cosines}
    found["reports"] = [_report(item) for item in answered]
    return found


def _levels(connection: Connection, number: int) -> dict[str, int]:
    """The level of compression that each name of a round's guide stands for."""
    row = one(connection, guides, guides.c.round == number)
    if row is None:
        return {}
    announced = Guides(bytes.fromhex(json.loads(row.facts)["base"]))
    named = {level: announced.at(level) for level in (AS_SAMPLED, *LEVELS)}
    return {guide.name.hex(): level for level, guide in named.items() if guide is not None}


def _summary(connection: Connection, row: Row[Any]) -> dict[str, Any]:
    values = {
        item.name: json.loads(item.value)
        for item in connection.execute(
            sa.select(metrics).where(metrics.c.round == row.number).order_by(metrics.c.metric_id)
        ).all()
    }
    return {
        "round": row.number,
        "status": row.status,
        "opened_ms": row.opened_ms,
        "closed_ms": row.closed_ms,
        "diagnostics": json.loads(row.diagnostics),
        "stage": values.get("stage"),
        "split": values.get("split"),
        "guide": values.get("guide"),
        "alignment": values.get("alignment"),
        "traffic_bytes": values.get("traffic", {}),
        "evaluation": values.get("evaluation"),
        "device_evaluation": _device_evaluation(connection, row.number),
    }


def _device_evaluation(connection: Connection, number: int) -> dict[str, Any] | None:
    """All devices' held-out examples together: mean loss (nats), correct, count."""
    query = (
        sa.select(reports.c.body)
        .join(tasks, tasks.c.task_id == reports.c.task_id)
        .where(reports.c.round == number, tasks.c.kind == "evaluate", reports.c.status == pb.REPORT_STATUS_OK)
    )
    found = [
        pb.Report.FromString(body).evaluation
        for body in connection.execute(query.order_by(reports.c.client_id)).scalars()
    ]
    count = sum(item.count for item in found)
    if count == 0:
        return None
    loss = sum(item.loss * item.count for item in found) / count
    return {
        "loss": loss,
        "correct": sum(item.correct for item in found),
        "count": count,
        "devices": len(found),
    }


def _report(row: Row[Any]) -> dict[str, Any]:
    body = pb.Report.FromString(row.body)
    found: dict[str, Any] = {
        "client_id": row.client_id,
        "task_id": row.task_id,
        "status": pb.ReportStatus.Name(body.status),
        "detail": body.detail,
        "received_ms": row.received_ms,
        "scalars": len(body.scalars),
        "adapter_sha256": body.adapter_sha256.hex(),
        "examples": body.examples,
        "skipped_examples": body.skipped_examples,
        "truncated_examples": body.truncated_examples,
        "downlink_bytes": body.timing.downlink_bytes,
        "uplink_bytes": body.timing.uplink_bytes,
        "segment_runs": body.timing.segment_runs,
        "pair_runs": body.timing.pair_runs,
        "segment_ms": list(body.timing.segment_ms),
        "spans": [
            {"name": span.name, "start_ms": span.start_ms, "end_ms": span.end_ms}
            for span in body.timing.spans
        ],
    }
    if body.segment_scores:
        found["segment_scores"] = list(body.segment_scores)
    if body.HasField("evaluation"):
        found["evaluation"] = MessageToDict(body.evaluation, preserving_proto_field_name=True)
    return found


def all_versions(store: Store) -> list[dict[str, Any]]:
    """Every adapter version and the artifacts that hold it."""
    with store.transaction() as connection:
        rows = connection.execute(sa.select(versions).order_by(versions.c.number)).all()
    return [
        {
            "version": row.number,
            "adapter_sha256": row.adapter_sha256,
            "record_size_bytes": None if row.record is None else len(row.record),
            "delta_sha256": row.delta_sha256,
            "delta_size_bytes": row.delta_size_bytes,
            "snapshot_sha256": row.snapshot_sha256,
            "snapshot_size_bytes": row.snapshot_size_bytes,
        }
        for row in rows
    ]
