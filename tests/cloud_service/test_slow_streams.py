"""Guides over links that hardly move hold up nobody, cost bounded bytes, and are freed when given up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cooperllm.simulate.link import Link
from cooperllm.simulate.proxy import Proxies
from protos import federation_pb2 as pb
from tests.cloud_service.fake_device import FakeDevice
from tests.cloud_service.wide_service import Handed, Wide, until, wide

SLOW = 64
BOUND_BYTES = 512 * 1024
# 2 kB a second: of a guide of 2 MB hardly anything arrives while a test runs.
CRAWLING = Link(2_000.0, 1e6)


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Handed:
    return Handed(monkeypatch)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Wide]:
    """A service whose first round is out to 65 devices."""
    with wide(tmp_path, SLOW + 1) as found:
        yield found


def members(serving: Wide) -> list[tuple[FakeDevice, pb.Task]]:
    """Every device of the cohort with its task."""
    devices = [FakeDevice(number, serving.where.grpc, serving.layout) for number in range(SLOW + 1)]
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


@pytest.mark.ci
def test_sixty_four_slow_streams_hold_up_nobody_and_cost_bounded_bytes(serving: Wide, handed: Handed) -> None:
    *slow, (fast, task) = members(serving)
    with Proxies() as proxies:
        links = [proxies.add(CRAWLING, serving.targets[:1], seed) for seed in range(SLOW)]
        streams = [
            Stream(device, f"127.0.0.1:{link.ports[0]}", own)
            for (device, own), link in zip(slow, links, strict=True)
        ]
        until(lambda: handed.alive == SLOW)
        start_s = time.monotonic()
        again = FakeDevice(fast.number, serving.where.grpc, serving.layout)
        assert again.check_in().WhichOneof("answer") == "task"
        assert time.monotonic() - start_s < 0.5
        chunks = list(Stream(fast, serving.where.grpc, task).call)
        assert sum(len(chunk.data) for chunk in chunks) == 4 * serving.layout.parameters
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
def test_a_segment_that_is_not_ready_holds_no_thread_and_is_never_sent(serving: Wide, handed: Handed) -> None:
    *waiting, (fast, _) = members(serving)
    ready_s = time.monotonic() + 60
    handed.not_ready = lambda: time.monotonic() < ready_s
    streams = [Stream(device, serving.where.grpc, own) for device, own in waiting]
    until(lambda: handed.alive == SLOW)
    start_s = time.monotonic()
    again = FakeDevice(fast.number, serving.where.grpc, serving.layout)
    assert again.check_in().WhichOneof("answer") == "task"
    assert time.monotonic() - start_s < 0.5
    assert sum(handed.size_bytes.values()) == 0
    for stream in streams[1:]:
        stream.call.cancel()
    ready_s = 0.0
    whole = list(streams[0].call)
    assert sum(len(chunk.data) for chunk in whole) == 4 * serving.layout.parameters
    until(lambda: handed.alive == 0)


@pytest.mark.ci
def test_a_stream_that_is_given_up_while_a_link_stalls_is_freed(serving: Wide, handed: Handed) -> None:
    """The link is cut before the cancellation gets through: the broken connection is enough."""
    (device, task), *_ = members(serving)
    with Proxies() as proxies:
        link = proxies.add(CRAWLING, serving.targets[:1])
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
