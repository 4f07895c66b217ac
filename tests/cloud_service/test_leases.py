"""Leases under an injected time: expiry, return, takeover, and when a round is complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cloud_service import leases
from cloud_service.leases import LeaseTimes
from cloud_service.store import Store, clients, parts, rounds, tasks, versions

TIMES = LeaseTimes(lease_ms=1000, refill_wait_ms=400)
A, B, C = "a" * 32, "b" * 32, "c" * 32


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'test.db'}")
    with store.transaction() as connection:
        for name in (A, B, C):
            connection.execute(sa.insert(clients).values(client_id=name, public_key=b"", device_name=""))
        connection.execute(sa.insert(versions).values(number=0, adapter_sha256="", state_sha256=""))
        connection.execute(sa.insert(rounds).values(number=0, status="open", plan_sha256="", opened_ms=0))
        leases.offer(connection, 0, "directions", [A, B], TIMES)
    yield store
    store.close()


def report(connection: Connection, client: str, accepted: bool = True, bad_artifact: bool = False) -> None:
    row = connection.execute(
        sa.select(tasks).where(tasks.c.holder == client, tasks.c.status == "leased")
    ).one()
    leases.finish(connection, row, bad_artifact, accepted)


def complete(connection: Connection, min_reports: int = 1) -> bool:
    return leases.is_complete(connection, 0, min_reports, TIMES)


def test_a_lease_is_given_again_with_the_time_that_is_left(store: Store) -> None:
    with store.transaction() as connection:
        first = leases.take(connection, 0, A, TIMES)
        leases.tick(connection, 0, 300)
        second = leases.take(connection, 0, A, TIMES)
        assert first is not None
        assert second is not None
        assert (first.task_id, first.remaining_ms, second.remaining_ms) == (second.task_id, 1000, 700)


def test_an_expired_lease_goes_back_to_its_client(store: Store) -> None:
    with store.transaction() as connection:
        first = leases.take(connection, 0, A, TIMES)
        assert leases.tick(connection, 0, 1000) == 2  # B never came
        marked = sa.select(clients.c.client_id).where(clients.c.missed)
        assert set(connection.execute(marked).scalars()) == {A, B}
        again = leases.take(connection, 0, A, TIMES)
        assert first is not None
        assert again is not None
        assert (again.task_id, again.status, again.remaining_ms) == (first.task_id, "leased", 1000)


def test_another_client_takes_over_once(store: Store) -> None:
    with store.transaction() as connection:
        leases.take(connection, 0, A, TIMES)
        assert leases.takeover(connection, 0, C) is None  # nothing has expired
        leases.take(connection, 0, B, TIMES)
        report(connection, B)
        leases.tick(connection, 0, 1000)
        assert leases.takeover(connection, 0, B) is None  # has done its own
        expired = leases.takeover(connection, 0, C)
        assert expired is not None
        assert expired.slot == A
        taken = leases.replace(connection, expired, C, TIMES)
        assert (taken.slot, taken.holder, taken.attempt, taken.status) == (A, C, 1, "leased")
        assert leases.take(connection, 0, A, TIMES) is None  # too late for the old holder
        assert not complete(connection)
        report(connection, C)
        assert complete(connection, min_reports=2)


def test_parts_go_with_their_lease(store: Store) -> None:
    def left() -> list[str]:
        return list(connection.execute(sa.select(parts.c.task_id).order_by(parts.c.task_id)).scalars())

    with store.transaction() as connection:
        leases.offer(connection, 0, "directions", [C], TIMES)
        found = [leases.take(connection, 0, client, TIMES) for client in (A, B, C)]
        names = [row.task_id for row in found if row is not None]
        connection.execute(sa.insert(parts), [{"task_id": name, "scalars": b"1234"} for name in names])
        assert left() == names
        report(connection, A)
        assert left() == names[1:]
        report(connection, B, accepted=False, bad_artifact=True)
        assert left() == names[2:]
        leases.tick(connection, 0, 999)
        assert left() == names[2:]
        leases.close(connection, 0)
        assert not left()


def test_the_round_waits_for_a_refill_and_then_closes_with_what_it_has(store: Store) -> None:
    with store.transaction() as connection:
        leases.take(connection, 0, A, TIMES)
        report(connection, A)
        leases.tick(connection, 0, 1000)
        assert not complete(connection)
        leases.tick(connection, 0, 399)
        assert not complete(connection)
        leases.tick(connection, 0, 1)
        assert complete(connection)
        assert not complete(connection, min_reports=2)
        leases.close(connection, 0)
        row = connection.execute(sa.select(tasks.c.status).where(tasks.c.holder == B)).scalar_one()
        assert row == "closed"


def test_no_report_at_all_keeps_the_round_open(store: Store) -> None:
    with store.transaction() as connection:
        leases.tick(connection, 0, 1_000_000)
        leases.tick(connection, 0, 1_000_000)
        assert not complete(connection)
        assert leases.take(connection, 0, A, TIMES) is not None


def test_refusals_by_all_complete_the_round(store: Store) -> None:
    with store.transaction() as connection:
        for client in (A, B):
            leases.take(connection, 0, client, TIMES)
            assert not complete(connection)
            report(connection, client, accepted=False)
        assert complete(connection)


def test_a_damaged_download_is_tried_again_a_few_times(store: Store) -> None:
    with store.transaction() as connection:
        for _ in range(leases.MAX_ATTEMPTS_AFTER_BAD_ARTIFACT):
            assert leases.take(connection, 0, A, TIMES) is not None
            report(connection, A, accepted=False, bad_artifact=True)
        assert leases.take(connection, 0, A, TIMES) is None


def test_evaluations_come_first(store: Store) -> None:
    with store.transaction() as connection:
        leases.offer(connection, 0, "evaluate", [A], TIMES)
        first = leases.take(connection, 0, A, TIMES)
        assert first is not None
        assert first.kind == "evaluate"
        report(connection, A)
        second = leases.take(connection, 0, A, TIMES)
        assert second is not None
        assert second.kind == "directions"


def test_a_transaction_that_raises_leaves_nothing(store: Store) -> None:
    def interrupted() -> None:
        with store.transaction() as connection:
            leases.take(connection, 0, A, TIMES)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with store.transaction() as connection:
        statuses = set(connection.execute(sa.select(tasks.c.status)).scalars())
    assert statuses == {"offered"}
