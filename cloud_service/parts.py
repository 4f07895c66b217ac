"""Scalars that came ahead of their report: kept while the lease of their task lives, joined with the report.

Each function is called inside one transaction. Who drops the parts of a lease that ends is leases.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cloud_service.store import parts
from cloud_service.wire import WireError
from protos import federation_pb2 as pb

_SCALAR_BYTES = 4


def received(connection: Connection, task_id: str) -> int:
    """How many scalars of a task are here, from its first on."""
    return len(_held(connection, task_id)) // _SCALAR_BYTES


def add(connection: Connection, part: pb.Scalars) -> int:
    """Keeps what is new in a part, and answers how many scalars of its task are here then.

    Nothing of a part that would leave a gap is kept. Raises WireError where it contradicts what is here.
    """
    held, given = _held(connection, part.task_id), _encoded(part.scalars)
    begin = _SCALAR_BYTES * part.first
    if begin > len(held):
        return len(held) // _SCALAR_BYTES
    joined = _joined(held, begin, given)
    if not held:
        connection.execute(sa.insert(parts).values(task_id=part.task_id, scalars=joined))
    elif len(joined) > len(held):
        mine = parts.c.task_id == part.task_id
        connection.execute(sa.update(parts).where(mine).values(scalars=joined))
    return len(joined) // _SCALAR_BYTES


def whole(connection: Connection, report: pb.Report) -> pb.Report:
    """An OK report with all its scalars, as if no part had gone ahead; any other as it is.

    Raises WireError where parts are missing, or contradict the report.
    """
    if report.status != pb.REPORT_STATUS_OK:
        return report
    held, begin = _held(connection, report.task_id), _SCALAR_BYTES * report.first_scalar
    if begin > len(held):
        raise WireError(
            "OUT_OF_RANGE",
            f"first_scalar is {report.first_scalar}, {len(held) // _SCALAR_BYTES} scalars are here: "
            "send the report with all its scalars",
        )
    found = pb.Report()
    found.CopyFrom(report)
    found.first_scalar = 0
    del found.scalars[:]
    found.scalars.extend(np.frombuffer(_joined(held, begin, _encoded(report.scalars)), "<f4").tolist())
    return found


def _held(connection: Connection, task_id: str) -> bytes:
    query = sa.select(parts.c.scalars).where(parts.c.task_id == task_id)
    return bytes(connection.execute(query).scalar() or b"")


def _encoded(scalars: Sequence[float]) -> bytes:
    return np.array(scalars, "<f4").tobytes()


def _joined(held: bytes, begin: int, given: bytes) -> bytes:
    """What is here, and behind it what is new; the rest of `given`, from byte `begin` on, must be the same
    bits.
    """
    known = held[begin:]
    if known[: len(given)] != given[: len(known)]:
        raise WireError("INVALID_ARGUMENT", "scalars has a value that differs from the one sent before")
    return held + given[len(known) :]
