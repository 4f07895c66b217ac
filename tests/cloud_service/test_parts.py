"""Scalars that come ahead of their report: joined with it, refused, dropped with their lease, and cheap."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa

from cloud_service import leases
from cloud_service.opening import reports_of
from cloud_service.serve import Service
from cloud_service.store import parts
from device_runtime.bundle import Bundle
from protos import federation_pb2 as pb
from tests.cloud_service.eager_device import BundleDevice, EagerDevice, rest_of
from tests.cloud_service.fake_device import FakeDevice, json_get, run_sessions
from tests.cloud_service.small_bundle import small_layout, write_bundle
from tests.cloud_service.small_service import small_job, started

LAYOUT = small_layout()
SCALARS = 4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "small")


class Waiting:
    """A service whose round is out to one device, and that device's finished report."""

    def __init__(self, bundle: Bundle, folder: Path, **changes: Any) -> None:
        job = small_job(
            bundle, cohort_size=1, evaluate_every_rounds=0, scalar_clip=100.0, rounds=1, **changes
        )
        self.service, where = started(bundle, folder, job)
        self.where = where
        self.device = BundleDevice(0, where.grpc, LAYOUT)
        self.device.enroll()
        self.task = self.ask()
        self.report = self.device.result(self.task)

    def ask(self, device: FakeDevice | None = None) -> pb.Task:
        while (reply := (device or self.device).check_in()).WhichOneof("answer") != "task":
            pass
        return reply.task

    def send(self, first: int, scalars: list[float], **fields: Any) -> int:
        part = pb.Scalars(**{"task_id": self.task.task_id, "first": first, "scalars": scalars} | fields)
        return self.device.call("SendScalars", part).received

    def stored(self, service: Service | None = None) -> list[float]:
        """Of the round's one report."""
        with (service or self.service).store.transaction() as connection:
            (found,), _ = reports_of(connection, 0)
        return list(found.scalars)

    def kept(self) -> int:
        with self.service.store.transaction() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(parts)).scalar_one()


@pytest.fixture
def waiting(bundle: Bundle, tmp_path: Path) -> Iterator[Waiting]:
    found = Waiting(bundle, tmp_path)
    yield found
    assert found.service.stop()


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.details()
    return str(caught.value.code().name)


def test_parts_and_report_are_what_the_report_alone_would_be(waiting: Waiting) -> None:
    scalars = list(waiting.report.scalars)
    assert waiting.task.received_scalars == 0
    assert waiting.send(0, scalars[:2]) == 2
    assert waiting.send(0, scalars[:1]) == 2  # repeated
    assert waiting.send(1, scalars[1:3]) == 3  # overlapping
    assert waiting.ask().received_scalars == 3
    assert not waiting.device.call("SendReport", rest_of(waiting.report, 2)).duplicate  # overlaps by one
    assert waiting.stored() == scalars
    assert waiting.kept() == 0
    assert waiting.device.call("SendReport", rest_of(waiting.report, 2)).duplicate


def test_all_scalars_may_be_ahead(waiting: Waiting) -> None:
    scalars = list(waiting.report.scalars)
    assert waiting.send(0, scalars) == SCALARS
    waiting.device.call("SendReport", rest_of(waiting.report, SCALARS))
    assert waiting.stored() == scalars


def test_a_part_behind_a_gap_is_answered_with_where_to_go_on(waiting: Waiting) -> None:
    scalars = list(waiting.report.scalars)
    assert waiting.send(2, scalars[2:]) == 0
    assert waiting.kept() == 0
    assert refused(lambda: waiting.device.call("SendReport", rest_of(waiting.report, 2))) == "OUT_OF_RANGE"
    waiting.device.call("SendReport", waiting.report)
    assert waiting.stored() == scalars


def test_what_is_refused(waiting: Waiting) -> None:
    scalars = list(waiting.report.scalars)
    waiting.send(0, scalars[:2])
    for first, given in (
        (1, [scalars[1] + 1]),
        (1, [scalars[1] + 1, scalars[2]]),
        (2, []),
        (2, [float("nan")]),
        (2, [float("inf")]),
        (2, [101.0]),
        (3, [1.0, 1.0]),
        (2**32 - 1, [1.0]),
    ):
        assert refused(lambda f=first, g=given: waiting.send(f, g)) == "INVALID_ARGUMENT"
    assert refused(lambda: waiting.send(0, [1.0], task_id="")) == "INVALID_ARGUMENT"
    assert refused(lambda: waiting.send(0, [1.0], task_id="0-d-somebody-0")) == "NOT_FOUND"
    other = BundleDevice(1, waiting.where.grpc, LAYOUT)
    other.enroll()
    part = pb.Scalars(task_id=waiting.task.task_id, scalars=scalars)
    assert refused(lambda: other.call("SendScalars", part)) == "NOT_FOUND"
    assert waiting.ask().received_scalars == 2


@pytest.mark.parametrize("wrong", ["contradicts", "too many", "too few", "beyond the clip"])
def test_a_report_is_checked_with_its_parts(waiting: Waiting, wrong: str) -> None:
    scalars = list(waiting.report.scalars)
    waiting.send(0, scalars[:2])
    report = rest_of(waiting.report, 1)
    change = {
        "contradicts": [scalars[1] + 1, *scalars[2:]],
        "too many": [*scalars[1:], 0.0],
        "too few": scalars[1:-1],
        "beyond the clip": [*scalars[1:-1], 101.0],
    }
    report.scalars[:] = change[wrong]
    assert refused(lambda: waiting.device.call("SendReport", report)) == "INVALID_ARGUMENT"
    waiting.device.call("SendReport", rest_of(waiting.report, 2))
    assert waiting.stored() == scalars


def test_an_expired_lease_drops_its_parts_and_a_late_report_brings_all(
    bundle: Bundle, tmp_path: Path
) -> None:
    waiting = Waiting(bundle, tmp_path, refill_wait_s=60.0)
    try:
        scalars = list(waiting.report.scalars)
        waiting.send(0, scalars[:3])
        with waiting.service.store.transaction() as connection:
            assert leases.tick(connection, 0, 10**6) == 1
        assert waiting.kept() == 0
        assert refused(lambda: waiting.send(3, scalars[3:])) == "NOT_FOUND"
        late = rest_of(waiting.report, 3)
        assert refused(lambda: waiting.device.call("SendReport", late)) == "OUT_OF_RANGE"
        waiting.device.call("SendReport", waiting.report)
        assert waiting.stored() == scalars
    finally:
        assert waiting.service.stop()


def test_who_takes_a_task_over_starts_at_its_first_scalar(bundle: Bundle, tmp_path: Path) -> None:
    waiting = Waiting(bundle, tmp_path, refill_wait_s=60.0)
    try:
        waiting.send(0, list(waiting.report.scalars[:3]))
        with waiting.service.store.transaction() as connection:
            leases.tick(connection, 0, 10**6)
        other = BundleDevice(1, waiting.where.grpc, LAYOUT)
        other.enroll()
        task = waiting.ask(other)
        assert task.received_scalars == 0
        assert task.task_id != waiting.task.task_id
        assert refused(lambda: waiting.send(3, [0.0])) == "NOT_FOUND"
        report = other.result(task)
        other.call("SendReport", report)
        assert waiting.stored() == list(report.scalars)
    finally:
        assert waiting.service.stop()


def test_a_refusal_drops_the_parts(waiting: Waiting) -> None:
    waiting.send(0, list(waiting.report.scalars[:3]))
    refusal = pb.Report(
        task_id=waiting.task.task_id, report_id="r", status=pb.REPORT_STATUS_LOSS_NOT_FINITE, detail="nan"
    )
    waiting.device.call("SendReport", refusal)
    assert waiting.kept() == 0


@pytest.mark.ci
def test_versions_are_those_of_devices_that_send_no_parts(bundle: Bundle, tmp_path: Path) -> None:
    hashes = []
    for kind in (BundleDevice, EagerDevice):
        service, where = started(bundle, tmp_path / kind.__name__, small_job(bundle))
        try:
            run_sessions([kind(number, where.grpc, LAYOUT) for number in range(3)])
            rows = json_get(where.http + "/v1/versions", "operator")
        finally:
            assert service.stop()
        hashes.append([row["adapter_sha256"] for row in rows])
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 5


def test_parts_of_one_task_at_the_same_time(waiting: Waiting) -> None:
    scalars = list(waiting.report.scalars)
    sent = [threading.Thread(target=waiting.send, args=(0, scalars[: 1 + n % SCALARS])) for n in range(12)]
    for thread in sent:
        thread.start()
    for thread in sent:
        thread.join(20)
    assert waiting.ask().received_scalars == SCALARS
