"""Real devices that hand in scalars ahead of their reports, against the real service: the same bits as
without, whatever is restarted in between, and what it costs on the wire.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from cloud_service.serve import Addresses, Service
from cloud_service.store import parts
from cooperllm.simulate.link import Link
from cooperllm.simulate.proxy import Proxies
from device_runtime import groups, streamed, uplink
from device_runtime.budget import Budget
from device_runtime.device import Device
from device_runtime.engine import Engine
from device_runtime.errors import CooperLLMError
from device_runtime.identity import Identity
from device_runtime.local_update import Measurement
from device_runtime.store import State, Store
from device_runtime.streaming import Order
from device_runtime.transport import Transport
from protos import federation_pb2 as pb
from tests.cloud_service.small_bundle import write_bundle
from tests.cloud_service.small_service import small_job, started
from tests.cloud_service.test_kill import free_ports
from tests.device_runtime.toy_bundle import open_toy_bundle, toy_examples
from tests.integration.test_devices_and_service import JOB, Running, published

SCALARS = 12
AHEAD: dict[str, Any] = JOB | {"directions_per_task": SCALARS, "rounds": 3}


# The cloud draws directions by client, and a client's id is its key's.
KEYS = [Identity.generate().pem() for _ in range(2)]


def known(folder: Path, number: int) -> Path:
    """A device's folder with the key of this number."""
    with Store(folder / f"device-{number}") as store:
        store.write_key(KEYS[number])
    return folder / f"device-{number}"


class Sent:
    """Counts the parts that were acknowledged; every group of directions hands in its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: list[int] = []
        self.after: Callable[[], None] = lambda: None
        send = Transport.send_scalars

        def counted(transport: Transport, part: pb.Scalars) -> pb.ScalarsAck:
            ack = send(transport, part)
            self.counts.append(len(part.scalars))
            self.after()
            return ack

        monkeypatch.setattr(Transport, "send_scalars", counted)
        measure = Engine.measure

        def slow(engine: Engine, *arguments: Any) -> Measurement:
            time.sleep(0.01)
            return measure(engine, *arguments)

        monkeypatch.setattr(Engine, "measure", slow)
        monkeypatch.setattr(groups, "GROUP_S", 0.0)
        monkeypatch.setattr(streamed, "choose", lambda sizes, left_bytes: Order(3, 0))
        monkeypatch.setattr(uplink, "is_worth_a_call", lambda *numbers: True)


def run(folder: Path, job: dict[str, Any]) -> dict[int, str]:
    """Version -> hash of a job with two devices."""
    bundle = open_toy_bundle(folder / "bundle")
    service, where = started(bundle, folder / "cloud", small_job(bundle, **job))
    try:
        for number in range(2):
            known(folder, number)
        devices = [Running(folder, where.grpc, number) for number in range(2)]
        for running in devices:
            running.join()
        with service.store.transaction() as connection:
            assert connection.execute(sa.select(parts)).first() is None
        assert all(set(running.statuses) == {"OK"} for running in devices)
        return published(service)
    finally:
        service.stop()


@pytest.mark.parametrize(
    "job",
    [
        {"estimator": "isotropic", "momentum": 0.0, "scale": "none"},
        pytest.param({"estimator": "zgr"}, marks=pytest.mark.ci),
    ],
    ids=["isotropic", "guided"],
)
def test_versions_are_the_same_bits_with_and_without_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: dict[str, Any]
) -> None:
    expected = run(tmp_path / "without", AHEAD | job)
    sent = Sent(monkeypatch)
    assert run(tmp_path / "with", AHEAD | job) == expected
    assert len(set(expected.values())) == AHEAD["rounds"] + 1
    assert sent.counts


class Restarting:
    """A service on ports of its own, and one device; both start again after a part, six times."""

    def __init__(self, folder: Path, sent: Sent) -> None:
        self.folder, self.sent, self.store = folder, sent, known(folder, 0)
        self.bundle = open_toy_bundle(folder / "bundle")
        self.ports = free_ports()
        self.service, self.where = self._serve()
        self.restarts = 0
        self.statuses: set[str] = set()

    def _serve(self) -> tuple[Service, Addresses]:
        job = small_job(self.bundle, **AHEAD | {"cohort_size": 1, "estimator": "isotropic", "momentum": 0.0})
        return started(self.bundle, self.folder / "cloud", job, **self.ports)

    def device(self) -> Device:
        def listen(event: Any) -> None:
            if event.name == "report":
                self.statuses.add(str(event.fields["status"]))

        return Device(
            server=self.where.grpc, store=self.store, examples=toy_examples(200, seed=0),
            budget=Budget(SCALARS), on_event=listen,
        )  # fmt: skip

    def run(self) -> dict[int, str]:
        finished = False
        while not finished:
            with self.device() as device:
                self.sent.after = lambda stopped=device: self._stop(stopped)  # type: ignore[misc]
                try:
                    finished = device.run_until_finished()
                except CooperLLMError:
                    self.restarts += 1
            if not finished:
                self.service.stop()
                self.service, self.where = self._serve()
        return published(self.service)

    def _stop(self, device: Device) -> None:
        if self.restarts < 6:
            device._stopping.set()


@pytest.mark.ci
def test_device_and_service_start_again_in_the_middle_of_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = AHEAD | {"cohort_size": 1, "estimator": "isotropic", "momentum": 0.0}
    bundle = open_toy_bundle(tmp_path / "quiet" / "bundle")
    service, where = started(bundle, tmp_path / "quiet" / "cloud", small_job(bundle, **job))
    try:
        with Device(
            server=where.grpc, store=known(tmp_path / "quiet", 0), examples=toy_examples(200, seed=0),
            budget=Budget(SCALARS),
        ) as device:  # fmt: skip
            assert device.run_until_finished()
        expected = published(service)
    finally:
        service.stop()
    restarting = Restarting(tmp_path / "restarting", Sent(monkeypatch))
    try:
        assert restarting.run() == expected
    finally:
        restarting.service.stop()
    assert restarting.restarts >= 3
    assert restarting.statuses == {"OK"}  # a task that paid twice would be beyond the budget


def test_nothing_leaves_after_forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    settings = AHEAD | {"cohort_size": 1, "estimator": "isotropic", "momentum": 0.0}
    service, where = started(bundle, tmp_path / "cloud", small_job(bundle, **settings))
    sent = Sent(monkeypatch)
    begun, goes_on, ended = threading.Event(), threading.Event(), threading.Event()
    send = Transport.send_scalars

    def late(transport: Transport, part: pb.Scalars) -> pb.ScalarsAck:
        begun.set()
        goes_on.wait(20)
        try:
            return send(transport, part)
        finally:
            ended.set()

    monkeypatch.setattr(Transport, "send_scalars", late)
    device = Device(
        server=where.grpc, store=tmp_path / "device", examples=toy_examples(200, seed=0), budget=Budget(64)
    )
    try:
        device.schedule(3600)
        assert begun.wait(30)
        device.forget()
        goes_on.set()
        assert ended.wait(20)
        assert not sent.counts
        assert device._store.state == State()
        with service.store.transaction() as connection:
            assert connection.execute(sa.select(parts)).first() is None
    finally:
        device.close()
        service.stop()


@pytest.mark.ci
def test_what_64_scalars_cost_on_the_wire(tmp_path: Path) -> None:
    """All that goes up for them, with HTTP/2 and signatures: 15 bytes a scalar in three calls."""
    bundle = write_bundle(tmp_path / "bundle")
    job = small_job(bundle, cohort_size=1, directions_per_task=64, evaluate_every_rounds=0)
    service, where = started(bundle, tmp_path / "cloud", job)
    try:
        with Proxies() as proxies:
            host, _, port = where.grpc.rpartition(":")
            proxy = proxies.add(Link(1e8, 1e8), [(host, int(port))])
            transport = Transport(f"127.0.0.1:{proxy.ports[0]}", Identity.generate())
            costs = Costs(transport, lambda: proxy.up_bytes)
            # The least of three: HTTP/2 has words of its own now and then.
            whole, ahead = (min(costs.of(positions) for _ in range(3)) for positions in ([], [4, 16]))
            transport.close()
    finally:
        service.stop()
    assert whole <= 4.5 * 64
    assert ahead <= 16 * 64


class Costs:
    """What goes up for a report of 64 scalars beyond what goes up for one without."""

    def __init__(self, transport: Transport, up_bytes: Callable[[], int]) -> None:
        self.transport, self.up_bytes = transport, up_bytes
        transport.enroll()
        request = pb.CheckInRequest(protocol_version=1, train_examples=64, bundle_sha256=b"b" * 32)
        request.budget.max_scalars_per_round = request.budget.max_head_scalars_per_round = 64
        request.budget.min_batch_examples = 8
        while (reply := transport.check_in(request)).WhichOneof("answer") != "task":
            time.sleep(0.02)
        self.task = reply.task

    def of(self, positions: list[int]) -> int:
        """In bytes, with parts up to these positions."""
        self._report(0, 0)  # the first call of its kind costs more: HTTP/2 learns its headers
        bare = self._moved(lambda: self._report(0, 0))
        first = 0

        def send() -> None:
            nonlocal first
            for end in positions:
                part = pb.Scalars(task_id=self.task.task_id, first=first, scalars=[1.5] * (end - first))
                self.transport.send_scalars(part)
                first = end
            self._report(first, 64)

        return self._moved(send) - bare

    def _report(self, first: int, end: int) -> None:
        """Of another adapter, so that it is refused and the lease goes on."""
        report = pb.Report(
            task_id=self.task.task_id, report_id="r" * 32, status=pb.REPORT_STATUS_OK,
            adapter_sha256=b"a" * 32, scalars=[1.5] * (end - first), first_scalar=first, examples=8,
        )  # fmt: skip
        with pytest.raises(CooperLLMError):
            self.transport.send_report(report)

    def _moved(self, call: Callable[[], None]) -> int:
        before = self._settled()
        call()
        return self._settled() - before

    def _settled(self) -> int:
        """Once acknowledgements of HTTP/2 have gone, too."""
        before = -1
        while before != (now := self.up_bytes()):
            before = now
            time.sleep(0.1)
        return now
