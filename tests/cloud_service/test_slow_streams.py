"""Guides over links that hardly move hold up nobody, cost bounded bytes, and are freed when given up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cloud_service.federation import Federation
from cloud_service.serve import Addresses, Service
from cooperllm.simulate.link import Link
from cooperllm.simulate.proxy import Proxies
from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb
from tests.cloud_service.fake_device import FakeDevice
from tests.cloud_service.small_bundle import EXPONENT, write_bundle
from tests.cloud_service.small_service import small_job, started

SLOW = 64
BOUND_BYTES = 512 * 1024
# 2 kB a second: of a guide of 2 MB hardly anything arrives while a test runs.
CRAWLING = Link(2_000.0, 1e6)


def wide_layout() -> Layout:
    """Two segments and a head, 2 MB of guide."""
    return Layout.build(
        [
            ("layer.0.a", 0, (500, 500), EXPONENT),
            ("layer.1.a", 1, (500, 500), EXPONENT),
            ("head.weight", 2, (2, 7), EXPONENT),
        ]
    )


class Handed:
    """What the service took from its iterators of chunks: bytes by client, and how many are alive."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size_bytes: Counter[str] = Counter()
        self.alive = 0
        self.not_ready: Callable[[], bool] = lambda: False
        original = Federation.stream_guides

        def counted(federation: Federation, client_id: str, request: pb.StreamGuidesRequest) -> Iterator[Any]:
            return self._watched(client_id, original(federation, client_id, request))

        monkeypatch.setattr(Federation, "stream_guides", counted)

    def _watched(self, client_id: str, chunks: Iterator[Any]) -> Iterator[Any]:
        self.alive += 1
        try:
            for chunk in chunks:
                while self.not_ready():
                    yield None
                self.size_bytes[client_id] += chunk.ByteSize()
                yield chunk
        finally:
            self.alive -= 1


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Handed:
    return Handed(monkeypatch)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[tuple[Service, Addresses, Layout]]:
    """A service whose first round is out to 65 devices."""
    layout = wide_layout()
    bundle = write_bundle(tmp_path / "bundle", layout)
    job = small_job(
        bundle, cohort_size=SLOW + 1, evaluate_every_rounds=0, directions_per_task=1, guide_level=0
    )
    service, where = started(bundle, tmp_path / "data", job)
    yield service, where, layout
    assert service.stop()


def members(where: Addresses, layout: Layout) -> list[tuple[FakeDevice, pb.Task]]:
    """Every device of the cohort with its task."""
    devices = [FakeDevice(number, where.grpc, layout) for number in range(SLOW + 1)]
    for device in devices:
        device.enroll()
        device.check_in()
    found = []
    for device in devices:
        while (reply := device.check_in()).WhichOneof("answer") != "task":
            time.sleep(0.02)
        found.append((device, reply.task))
        device.channel.close()
    return found


class Stream:
    """A stream of guides over another address, under the same key."""

    def __init__(self, device: FakeDevice, address: str, task: pb.Task) -> None:
        request = pb.StreamGuidesRequest(task_id=task.task_id)
        self.device = FakeDevice(device.number, address, device.layout)  # its channel lives as long as this
        metadata = self.device.metadata("StreamGuides", request.SerializeToString())
        self.call: Any = self.device.stub.StreamGuides(request, timeout=60, metadata=metadata)


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.mark.ci
def test_sixty_four_slow_streams_hold_up_nobody_and_cost_bounded_bytes(
    serving: tuple[Service, Addresses, Layout], handed: Handed
) -> None:
    _, where, layout = serving
    *slow, (fast, task) = members(where, layout)
    target = ("127.0.0.1", int(where.grpc.rpartition(":")[2]))
    with Proxies() as proxies:
        links = [proxies.add(CRAWLING, [target], seed) for seed in range(SLOW)]
        streams = [
            Stream(device, f"127.0.0.1:{link.ports[0]}", own)
            for (device, own), link in zip(slow, links, strict=True)
        ]
        until(lambda: handed.alive == SLOW)
        start_s = time.monotonic()
        again = FakeDevice(fast.number, where.grpc, layout)
        assert again.check_in().WhichOneof("answer") == "task"
        assert time.monotonic() - start_s < 0.5
        chunks = list(Stream(fast, where.grpc, task).call)
        assert sum(len(chunk.data) for chunk in chunks) == 4 * layout.parameters
        assert chunks[-1].last
        assert time.monotonic() - start_s < 2.0
        time.sleep(0.5)
        costs = [handed.size_bytes[device.client_id] for device, _ in slow]
        assert min(costs) > 0
        assert max(costs) <= BOUND_BYTES
        assert max(link.down_bytes for link in links) < 20_000  # nothing to speak of has arrived
        for stream in streams:
            stream.call.cancel()
        until(lambda: handed.alive == 0)


@pytest.mark.ci
def test_a_segment_that_is_not_ready_holds_no_thread_and_is_never_sent(
    serving: tuple[Service, Addresses, Layout], handed: Handed
) -> None:
    _, where, layout = serving
    *waiting, (fast, _) = members(where, layout)
    ready_s = time.monotonic() + 60
    handed.not_ready = lambda: time.monotonic() < ready_s
    streams = [Stream(device, where.grpc, own) for device, own in waiting]
    until(lambda: handed.alive == SLOW)
    start_s = time.monotonic()
    again = FakeDevice(fast.number, where.grpc, layout)
    assert again.check_in().WhichOneof("answer") == "task"
    assert time.monotonic() - start_s < 0.5
    assert sum(handed.size_bytes.values()) == 0
    for stream in streams[1:]:
        stream.call.cancel()
    ready_s = 0.0
    whole = list(streams[0].call)
    assert sum(len(chunk.data) for chunk in whole) == 4 * layout.parameters
    until(lambda: handed.alive == 0)


def test_a_stream_that_is_given_up_while_a_link_stalls_is_freed(
    serving: tuple[Service, Addresses, Layout], handed: Handed
) -> None:
    """The link is cut before the cancellation gets through: the broken connection is enough."""
    _, where, layout = serving
    (device, task), *_ = members(where, layout)
    target = ("127.0.0.1", int(where.grpc.rpartition(":")[2]))
    with Proxies() as proxies:
        link = proxies.add(CRAWLING, [target])
        stream = Stream(device, f"127.0.0.1:{link.ports[0]}", task)
        until(lambda: handed.size_bytes[device.client_id] > 0)
        link.stall(60.0)
        stream.call.cancel()
        time.sleep(0.2)
        assert handed.alive == 1
        link.reset()
        until(lambda: handed.alive == 0)
        with pytest.raises(grpc.RpcError):
            next(stream.call)
