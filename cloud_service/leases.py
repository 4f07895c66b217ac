"""The life of a task's lease, as transitions of rows. Each function is called inside one transaction.

    offered    the round is open; its client has not come for it yet
    leased     a client has it
    expired    its time is over; its own client, or another without a task in this round, may still take it
    replaced   another client took it over: a new row with the next attempt is the live one
    reported   done, the report is stored
    refused    the device said why it cannot do it; not offered again
    closed     the round ended without it

`remaining_ms` falls only while the service runs (`tick`): the cloud's own downtime costs no device its
lease. After expiry it goes on falling below zero, and at -refill_wait the round no longer waits for the task.

Scalars that came ahead of the report (parts.py) belong to the lease: they are dropped when it is over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from cloud_service.plan import RoundPlan
from cloud_service.store import clients, parts, tasks

RUNNING = ("offered", "leased")
MEASURING = ("directions", "score_segments")  # a round waits for these, and others may take them over
MAX_ATTEMPTS_AFTER_BAD_ARTIFACT = 3


@dataclass(frozen=True)
class LeaseTimes:
    """How long a client has a task, and how long an expired one waits for somebody else."""

    lease_ms: int
    refill_wait_ms: int


def task_id(round_number: int, kind: str, slot: str, attempt: int) -> str:
    """A task's name. It depends on nothing but the plan, so a restart gives the same one."""
    return f"{round_number}-{kind[0]}-{slot[:12]}-{attempt}"


def offer(
    connection: Connection, round_number: int, kind: str, slots: Iterable[str], times: LeaseTimes
) -> None:
    """Writes down one task for each client of a round."""
    rows = [
        {
            "task_id": task_id(round_number, kind, slot, 0),
            "round": round_number,
            "kind": kind,
            "slot": slot,
            "holder": slot,
            "attempt": 0,
            "status": "offered",
            "remaining_ms": times.lease_ms,
        }
        for slot in slots
    ]
    if rows:
        connection.execute(sa.insert(tasks), rows)


def name_guides(connection: Connection, plan: RoundPlan) -> None:
    """Writes down which guide each task of a round names: what its holder has once it reported."""
    for task in plan.tasks:
        guide = plan.guide_of(task)
        if guide is not None:
            own = sa.and_(
                tasks.c.round == plan.round, tasks.c.holder == task.client_id, tasks.c.kind == "directions"
            )
            connection.execute(sa.update(tasks).where(own).values(guide=guide.name.hex()))


def take(connection: Connection, round_number: int, client_id: str, times: LeaseTimes) -> Row[Any] | None:
    """The task that this client has or may have back, leased to it; None when there is none.

    An evaluation comes before directions: it is about the version that the directions start from. Scores
    come before both.
    """
    own = sa.select(tasks).where(tasks.c.round == round_number, tasks.c.holder == client_id)
    rows = connection.execute(own.order_by(tasks.c.kind.desc(), tasks.c.attempt.desc())).all()
    for row in rows:
        if row.status in ("offered", "expired"):
            return _lease(connection, row.task_id, times)
        if row.status == "leased":
            return row
    return None


def takeover(connection: Connection, round_number: int, client_id: str) -> Row[Any] | None:
    """An expired task of somebody else that this client, which has none in the round, may take over; or
    None.
    """
    own = sa.select(tasks.c.task_id).where(
        tasks.c.round == round_number, tasks.c.holder == client_id, tasks.c.kind.in_(MEASURING)
    )
    if connection.execute(own.limit(1)).first() is not None:
        return None
    free = sa.select(tasks).where(
        tasks.c.round == round_number, tasks.c.kind.in_(MEASURING), tasks.c.status == "expired"
    )
    return connection.execute(free.order_by(tasks.c.slot).limit(1)).first()


def _lease(connection: Connection, name: str, times: LeaseTimes) -> Row[Any]:
    connection.execute(
        sa.update(tasks).where(tasks.c.task_id == name).values(status="leased", remaining_ms=times.lease_ms)
    )
    return connection.execute(sa.select(tasks).where(tasks.c.task_id == name)).one()


def replace(connection: Connection, row: Row[Any], client_id: str, times: LeaseTimes) -> Row[Any]:
    """Gives an expired task to another client; the old holder's report is from now on too late."""
    connection.execute(sa.update(tasks).where(tasks.c.task_id == row.task_id).values(status="replaced"))
    attempt = row.attempt + 1
    name = task_id(row.round, row.kind, row.slot, attempt)
    connection.execute(
        sa.insert(tasks).values(
            task_id=name,
            round=row.round,
            kind=row.kind,
            slot=row.slot,
            holder=client_id,
            attempt=attempt,
            status="leased",
            remaining_ms=times.lease_ms,
        )
    )
    return connection.execute(sa.select(tasks).where(tasks.c.task_id == name)).one()


def tick(connection: Connection, round_number: int, elapsed_ms: int) -> int:
    """Takes `elapsed_ms` of running time from every unfinished task; answers how many clients let one lapse
    by it.

    Those are marked: until they are seen again, no new round counts on them.
    """
    here = tasks.c.round == round_number
    unfinished = tasks.c.status.in_((*RUNNING, "expired"))
    connection.execute(
        sa.update(tasks).where(here, unfinished).values(remaining_ms=tasks.c.remaining_ms - elapsed_ms)
    )
    over = sa.and_(here, tasks.c.status.in_(RUNNING), tasks.c.remaining_ms <= 0)
    holders = list(connection.execute(sa.select(tasks.c.holder).where(over).distinct()).scalars())
    if holders:
        _drop_parts(connection, over)
        connection.execute(sa.update(clients).where(clients.c.client_id.in_(holders)).values(missed=True))
        connection.execute(sa.update(tasks).where(over).values(status="expired", remaining_ms=0))
    return len(holders)


def finish(connection: Connection, row: Row[Any], bad_artifact: bool, accepted: bool) -> None:
    """Records that the holder answered. A device whose download was damaged gets the same task again, a few
    times.
    """
    status = "reported" if accepted else "refused"
    values: dict[str, Any] = {"status": status}
    if bad_artifact and row.attempt + 1 < MAX_ATTEMPTS_AFTER_BAD_ARTIFACT:
        values = {"status": "expired", "remaining_ms": 0, "attempt": row.attempt + 1}
    _drop_parts(connection, tasks.c.task_id == row.task_id)
    connection.execute(sa.update(tasks).where(tasks.c.task_id == row.task_id).values(**values))


def is_complete(connection: Connection, round_number: int, min_reports: int, times: LeaseTimes) -> bool:
    """Whether nothing more is awaited: every task is reported, refused or past its refill wait, and enough
    came.

    A round of evaluations alone needs no minimum. When every task of the others was refused it is complete as
    well: the caller finds no report and stops the job.
    """
    rows = connection.execute(
        sa.select(tasks).where(tasks.c.round == round_number, tasks.c.status != "replaced")
    ).all()
    # Nobody else can do a lost evaluation, and no version depends on it: it is not waited for.
    awaited = [
        row
        for row in rows
        if row.status in RUNNING
        or (row.status == "expired" and row.kind in MEASURING and row.remaining_ms > -times.refill_wait_ms)
    ]
    if awaited:
        return False
    measuring = [row for row in rows if row.kind in MEASURING]
    reported = sum(row.status == "reported" for row in measuring)
    if reported >= min(min_reports, len(measuring)):
        return True
    return all(row.status in ("reported", "refused") for row in measuring)


def close(connection: Connection, round_number: int) -> None:
    """Ends what is unfinished: a report that still comes for it is too late."""
    _drop_parts(connection, tasks.c.round == round_number)
    connection.execute(
        sa.update(tasks)
        .where(tasks.c.round == round_number, tasks.c.status.in_((*RUNNING, "expired")))
        .values(status="closed")
    )


def _drop_parts(connection: Connection, of: sa.ColumnElement[bool]) -> None:
    connection.execute(sa.delete(parts).where(parts.c.task_id.in_(sa.select(tasks.c.task_id).where(of))))
