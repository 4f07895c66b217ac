"""A device's own Transport and the real service, with a link between them that stalls, breaks or slows down.

Nothing that arrived is sent again, and nothing is missing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cooperllm.simulate.link import Link
from cooperllm.simulate.proxy import Proxies, Proxy
from device_runtime.identity import Identity
from device_runtime.retry import Retry
from device_runtime.transport import Transport
from protos import federation_pb2 as pb
from tests.cloud_service.wide_service import Handed, Wide, until, wide

LINK = Link(2e6, 1e6, rtt_s=0.01)
IN_FLIGHT_BYTES = 320 * 1024
"""What was handed over and has not arrived, at most: the window that Transport grants, and a chunk or two."""


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Wide]:
    with wide(tmp_path, devices=1) as found:
        yield found


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    with Proxies() as found:
        yield found


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Handed:
    return Handed(monkeypatch)


class Device:
    """A Transport behind a link, and its task."""

    def __init__(self, serving: Wide, proxies: Proxies, link: Link = LINK, deadline_s: float = 30.0) -> None:
        self.proxy: Proxy = proxies.add(link, serving.targets)
        grpc, http = self.proxy.ports
        self.transport = Transport(
            f"127.0.0.1:{grpc}",
            Identity.generate(),
            artifacts_url=f"http://127.0.0.1:{http}",
            deadline_s=deadline_s,
            retry=Retry(first_pause_s=0.05),
        )
        self.transport.enroll()
        request = pb.CheckInRequest(protocol_version=1, train_examples=64)
        request.budget.max_scalars_per_round = request.budget.max_head_scalars_per_round = 64
        request.budget.min_batch_examples = 8
        while (reply := self.transport.check_in(request)).WhichOneof("answer") != "task":
            time.sleep(0.02)
        self.task = reply.task

    def chunks(self) -> Iterator[pb.GuideChunk]:
        return self.transport.stream_guides(self.task.task_id)


def assert_whole(chunks: list[pb.GuideChunk], serving: Wide) -> None:
    """Every byte of every segment came once, in order, and has its hash."""
    parts = {segment: bytearray() for segment in serving.layout.segments}
    for chunk in chunks:
        assert chunk.offset_bytes == len(parts[chunk.segment])
        parts[chunk.segment] += chunk.data
        if len(parts[chunk.segment]) == chunk.segment_size_bytes:
            assert hashlib.sha256(parts[chunk.segment]).digest() == chunk.segment_sha256
    assert sum(map(len, parts.values())) == 4 * serving.layout.parameters


def test_a_reset_inside_a_guide_costs_what_was_in_flight(
    serving: Wide, proxies: Proxies, handed: Handed
) -> None:
    device = Device(serving, proxies)
    got: list[pb.GuideChunk] = []
    arrived: list[tuple[int, int]] = []  # where the device stood at each break
    for chunk in device.chunks():
        if len(handed.starts) > 1 + len(arrived):
            arrived.append((got[-1].segment, got[-1].offset_bytes + len(got[-1].data)))
        if len(got) in (20, 70):
            device.proxy.reset_after(100_000)
        got.append(chunk)
    assert_whole(got, serving)
    assert len(arrived) == 2
    assert handed.starts == [(0, 0), *arrived]  # each goes on behind the last byte that came
    total = sum(handed.size_bytes.values())
    assert 0 <= total - 4 * serving.layout.parameters <= 2 * IN_FLIGHT_BYTES
    sent = serving.sent(device.task.task_id)
    assert [item["segment"] for item in sent] == list(serving.layout.segments)
    assert all(item["start_ms"] <= item["end_ms"] for item in sent)
    device.transport.close()


def test_a_stall_costs_the_cloud_no_more_than_the_window(
    serving: Wide, proxies: Proxies, handed: Handed, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device(serving, proxies)
    stream = device.chunks()
    got = sum(len(next(stream).data) for _ in range(20))  # the stream is at full speed
    device.proxy.stall(60.0)
    time.sleep(0.5)
    assert 0 < sum(handed.size_bytes.values()) - got <= IN_FLIGHT_BYTES
    device.proxy.reset()
    device.transport.close()
    until(lambda: handed.alive == 0)
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


@pytest.mark.ci
def test_a_stall_inside_a_guide_costs_time_alone(serving: Wide, proxies: Proxies, handed: Handed) -> None:
    device = Device(serving, proxies, Link(20e6, 20e6))
    start_s, got = time.monotonic(), []
    for chunk in device.chunks():
        if len(got) == 10:
            device.proxy.stall(1.0)
        got.append(chunk)
    assert 1.0 <= time.monotonic() - start_s < 2.5
    assert_whole(got, serving)
    assert handed.starts == [(0, 0)]
    assert sum(handed.size_bytes.values()) == 4 * serving.layout.parameters
    device.transport.close()


@pytest.mark.ci
def test_a_link_that_dies_without_a_sign_is_left(serving: Wide, proxies: Proxies, handed: Handed) -> None:
    device = Device(serving, proxies, deadline_s=2.0)
    start_s, got = time.monotonic(), []
    for chunk in device.chunks():
        got.append(chunk)
        if len(got) == 20:
            device.proxy.silence()
    assert_whole(got, serving)
    assert len(handed.starts) == 2
    assert time.monotonic() - start_s < 12.0  # a stream may take 20 s
    device.transport.close()


@pytest.mark.ci
def test_the_service_stops_while_a_stream_is_stalled(serving: Wide, proxies: Proxies, handed: Handed) -> None:
    device = Device(serving, proxies)
    stream = device.chunks()
    next(stream)
    device.proxy.stall(60.0)
    time.sleep(0.2)
    start_s = time.monotonic()
    assert serving.service.stop()
    assert time.monotonic() - start_s < 10.0  # a grace of five seconds, and no more
    assert handed.alive == 0
    device.transport.close()


@pytest.mark.ci
def test_a_link_that_drops_to_a_tenth_is_measured_and_loses_nothing(
    serving: Wide, proxies: Proxies, handed: Handed
) -> None:
    device = Device(serving, proxies, replace(LINK, down_bytes_per_s=4e6))
    got = list(device.chunks())
    before = device.transport.traffic.download_bytes_per_s
    assert before == pytest.approx(4e6, rel=0.3)
    device.proxy.change(replace(LINK, down_bytes_per_s=4e5))
    stream = device.chunks()
    again = [next(stream) for _ in range(30)]  # half a megabyte
    stream.close()
    assert device.transport.traffic.download_bytes_per_s == pytest.approx(4e5, rel=0.3)
    assert again == got[:30]
    assert_whole(got, serving)
    until(lambda: handed.alive == 0)
    device.transport.close()


@pytest.mark.ci
def test_an_artifact_goes_on_where_its_link_broke(serving: Wide, proxies: Proxies, tmp_path: Path) -> None:
    device = Device(serving, proxies)
    snapshot = device.task.update.snapshot
    before = device.proxy.down_bytes
    device.proxy.reset_after(700_000)
    target = tmp_path / "snapshot"
    device.transport.fetch(snapshot.sha256.hex(), snapshot.size_bytes, target, snapshot.size_bytes)
    assert hashlib.sha256(target.read_bytes()).digest() == snapshot.sha256
    # A reset takes away what the device's system had received and nobody had read.
    assert snapshot.size_bytes < device.proxy.down_bytes - before < snapshot.size_bytes + 300_000
    device.transport.close()


@pytest.mark.ci
def test_a_link_of_long_round_trips_is_connected_at_the_first_attempt(
    serving: Wide, proxies: Proxies
) -> None:
    link = replace(LINK, rtt_s=0.6)
    proxy = proxies.add(link, serving.targets)
    start_s = time.monotonic()
    transport = Transport(f"127.0.0.1:{proxy.ports[0]}", Identity.generate())
    transport.enroll()
    # The handshake, the first frames and the call itself take three round trips; a second attempt, more.
    assert time.monotonic() - start_s < 3.4 * link.rtt_s
    transport.close()
