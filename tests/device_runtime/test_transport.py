"""Calls over real gRPC on loopback: signatures, repetitions, meanings of statuses, resumed guides."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from device_runtime.errors import (
    CooperLLMError,
    EnrollmentRefused,
    NotEnrolled,
    OptionError,
    ProtocolMismatch,
    ScalarsMissing,
    ServerRefused,
    ServerUnreachable,
    TaskLost,
    VersionRefused,
)
from device_runtime.identity import Identity
from device_runtime.retry import Retry
from device_runtime.transport import Transport
from protos import federation_pb2 as pb
from protos import federation_pb2_grpc as rpc

CODES = grpc.StatusCode


class Service(rpc.FederationServicer):
    """Answers what `answer` says, after checking the signature as any other implementation would."""

    def __init__(self) -> None:
        self.statuses: list[grpc.StatusCode] = []  # answered first, one a call
        self.calls: list[str] = []
        self.requests: list[Any] = []
        self.public_key = b""
        self.protocol_version = 1
        self.break_at: set[int] = set()
        self.total = 5
        self.pause_s = 0.0
        self.streams: list[int] = []

    def _check(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        self.calls.append(method)
        self.requests.append(request)
        if method != "Enroll":
            metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
            signed = f"/cooperllm.v1.Federation/{method}\n{metadata['cooperllm-time-ms']}\n".encode()
            key = load_der_public_key(self.public_key)
            assert isinstance(key, ec.EllipticCurvePublicKey)
            try:
                signature = bytes.fromhex(metadata["cooperllm-signature"])
                key.verify(signature, signed + request.SerializeToString(), ec.ECDSA(hashes.SHA256()))
            except InvalidSignature:
                context.abort(CODES.UNAUTHENTICATED, "bad signature")
            assert metadata["cooperllm-client"] == hashlib.sha256(self.public_key).hexdigest()[:32]
        if self.statuses:
            context.abort(self.statuses.pop(0), "as scripted")

    def Enroll(self, request: pb.EnrollRequest, context: grpc.ServicerContext) -> pb.EnrollReply:  # noqa: N802
        self._check("Enroll", request, context)
        self.public_key = request.public_key
        return pb.EnrollReply(client_id="x", protocol_version=self.protocol_version)

    def CheckIn(self, request: pb.CheckInRequest, context: grpc.ServicerContext) -> pb.CheckInReply:  # noqa: N802
        self._check("CheckIn", request, context)
        return pb.CheckInReply(retry=pb.RetryWindow(min_ms=1))

    def SendReport(self, request: pb.Report, context: grpc.ServicerContext) -> pb.Ack:  # noqa: N802
        self._check("SendReport", request, context)
        return pb.Ack()

    def SendScalars(self, request: pb.Scalars, context: grpc.ServicerContext) -> pb.ScalarsAck:  # noqa: N802
        self._check("SendScalars", request, context)
        return pb.ScalarsAck(received=3)

    def StreamGuides(  # noqa: N802
        self, request: pb.StreamGuidesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GuideChunk]:
        self._check("StreamGuides", request, context)
        first = request.first_byte // 100
        self.streams.append(first)
        for index in range(first, self.total):
            if index in self.break_at:
                self.break_at.remove(index)
                context.abort(CODES.UNAVAILABLE, "broken")
            time.sleep(self.pause_s)
            yield pb.GuideChunk(
                offset_bytes=100 * index,
                data=b"x" * 100,
                queued=index > first,
                last=index + 1 == self.total,
            )


class Pauses:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def retry(self, **patience: float) -> Retry:
        return Retry(clock=lambda: self.now_s, sleep=self.sleep, uniform=lambda low, high: high, **patience)


@pytest.fixture
def service() -> Iterator[tuple[Service, str]]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    servicer = Service()
    rpc.add_FederationServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(0)


def connect(address: str, retry: Retry | None = None, **options: Any) -> Transport:
    return Transport(address, Identity.generate(), retry=retry or Pauses().retry(), **options)


def test_every_call_is_signed_and_counted(service: tuple[Service, str]) -> None:
    servicer, address = service
    transport = connect(address, name="n" * 100, token="secret")
    transport.enroll()
    assert servicer.requests[0].enrollment_token == "secret"
    assert servicer.requests[0].device_name == "n" * 64
    request = pb.CheckInRequest(protocol_version=1, bundle_sha256=b"b" * 32)
    reply = transport.check_in(request)
    report = pb.Report(task_id="t", scalars=[0.5] * 1000)
    transport.send_report(report)
    chunks = list(transport.stream_guides("t"))
    assert servicer.calls == ["Enroll", "CheckIn", "SendReport", "StreamGuides"]
    uplink = sum(request.ByteSize() for request in servicer.requests)
    assert transport.traffic.uplink_bytes == uplink > 4000
    enrolled = pb.EnrollReply(client_id="x", protocol_version=1).ByteSize()
    downlink = enrolled + reply.ByteSize() + sum(chunk.ByteSize() for chunk in chunks)
    assert transport.traffic.downlink_bytes == downlink > 500


def test_a_key_that_is_not_enrolled_is_told_so(service: tuple[Service, str]) -> None:
    _, address = service
    connect(address).enroll()
    with pytest.raises(NotEnrolled, match="clock"):
        connect(address).check_in(pb.CheckInRequest())


def test_passing_failures_are_repeated_with_growing_pauses(service: tuple[Service, str]) -> None:
    servicer, address = service
    pauses = Pauses()
    servicer.statuses = [CODES.UNAVAILABLE, CODES.RESOURCE_EXHAUSTED, CODES.INTERNAL, CODES.UNAVAILABLE]
    connect(address, pauses.retry(first_pause_s=0.5, longest_pause_s=3.0)).enroll()
    assert servicer.calls == ["Enroll"] * 5
    assert pauses.slept == [0.5, 1.0, 2.0, 3.0]


def test_scalars_are_sent_once_and_signed(service: tuple[Service, str]) -> None:
    servicer, address = service
    pauses = Pauses()
    transport = connect(address, pauses.retry())
    transport.enroll()
    assert transport.send_scalars(pb.Scalars(task_id="t", first=2, scalars=[1.5])).received == 3
    servicer.statuses = [CODES.UNAVAILABLE]
    with pytest.raises(ServerUnreachable):
        transport.send_scalars(pb.Scalars(task_id="t"))
    assert servicer.calls == ["Enroll", "SendScalars", "SendScalars"]
    assert not pauses.slept


def test_repeating_ends_sooner_before_the_first_answer(service: tuple[Service, str]) -> None:
    servicer, address = service
    pauses = Pauses()
    transport = connect(address, pauses.retry(first_contact_s=2.0, patience_s=20.0, first_pause_s=1.0))
    servicer.statuses = [CODES.UNAVAILABLE] * 100
    with pytest.raises(ServerUnreachable, match=f"no answer from {address}.*check the address"):
        transport.enroll()
    assert sum(pauses.slept) <= 2.0
    servicer.statuses = []
    transport.enroll()
    pauses.slept.clear()
    servicer.statuses = [CODES.UNAVAILABLE] * 100
    with pytest.raises(ServerUnreachable):
        transport.check_in(pb.CheckInRequest())
    assert 10.0 < sum(pauses.slept) <= 20.0


def test_a_server_that_is_not_there(service: tuple[Service, str]) -> None:
    started = time.monotonic()
    with pytest.raises(ServerUnreachable, match=r"no answer from 127\.0\.0\.1:1 "):
        connect("127.0.0.1:1", Pauses().retry(first_contact_s=1.0)).enroll()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("address", ["", "nowhere", "host:", ":50051", "host:port"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(OptionError, match="HOST:PORT"):
        connect(address)


MEANINGS: list[tuple[Callable[[Transport], object], grpc.StatusCode, type[CooperLLMError]]] = [
    (lambda t: t.enroll(), CODES.PERMISSION_DENIED, EnrollmentRefused),
    (lambda t: t.enroll(), CODES.INVALID_ARGUMENT, ServerRefused),
    (lambda t: t.check_in(pb.CheckInRequest()), CODES.FAILED_PRECONDITION, ProtocolMismatch),
    (lambda t: t.check_in(pb.CheckInRequest()), CODES.UNAUTHENTICATED, NotEnrolled),
    (lambda t: list(t.stream_guides("t")), CODES.NOT_FOUND, TaskLost),
    (lambda t: t.send_report(pb.Report()), CODES.NOT_FOUND, TaskLost),
    (lambda t: t.send_report(pb.Report()), CODES.DEADLINE_EXCEEDED, TaskLost),
    (lambda t: t.send_report(pb.Report()), CODES.FAILED_PRECONDITION, VersionRefused),
    (lambda t: t.send_report(pb.Report()), CODES.INVALID_ARGUMENT, ServerRefused),
    (lambda t: t.send_report(pb.Report()), CODES.OUT_OF_RANGE, ScalarsMissing),
    (lambda t: t.send_scalars(pb.Scalars()), CODES.NOT_FOUND, TaskLost),
    (lambda t: t.send_scalars(pb.Scalars()), CODES.INVALID_ARGUMENT, ServerRefused),
    (lambda t: t.send_scalars(pb.Scalars()), CODES.UNAVAILABLE, ServerUnreachable),
    (lambda t: t.send_scalars(pb.Scalars()), CODES.DEADLINE_EXCEEDED, ServerUnreachable),
    (lambda t: t.send_scalars(pb.Scalars()), CODES.UNIMPLEMENTED, ServerRefused),
]


@pytest.mark.parametrize(("call", "status", "error"), MEANINGS)
def test_what_a_status_means(
    service: tuple[Service, str],
    call: Callable[[Transport], object],
    status: grpc.StatusCode,
    error: type[CooperLLMError],
) -> None:
    servicer, address = service
    transport = connect(address)
    transport.enroll()
    servicer.statuses = [status]
    with pytest.raises(error) as raised:
        call(transport)
    assert type(raised.value) is error
    assert "as scripted" in str(raised.value)
    assert not servicer.statuses


def test_another_protocol_is_refused(service: tuple[Service, str]) -> None:
    servicer, address = service
    servicer.protocol_version = 2
    with pytest.raises(ProtocolMismatch, match="speaks protocol 2"):
        connect(address).enroll()


def test_a_deadline_of_ones_own_is_repeated_and_not_taken_for_a_lost_lease(
    service: tuple[Service, str],
) -> None:
    servicer, address = service
    transport = Transport(address, Identity.generate(), deadline_s=0.3, retry=Retry(first_pause_s=0.01))
    transport.enroll()
    slow = threading.Event()
    answer = servicer.SendReport

    def late(request: pb.Report, context: grpc.ServicerContext) -> pb.Ack:
        if not slow.is_set():
            slow.set()
            time.sleep(0.8)
        return answer(request, context)

    servicer.SendReport = late  # type: ignore[method-assign]
    server = grpc.server(futures.ThreadPoolExecutor(4))
    rpc.add_FederationServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    second = Transport(
        f"127.0.0.1:{port}", transport.identity, deadline_s=0.3, retry=Retry(first_pause_s=0.01)
    )
    assert second.send_report(pb.Report(task_id="t")) == pb.Ack()
    server.stop(0)


def test_a_broken_stream_goes_on_at_the_first_chunk_that_is_missing(service: tuple[Service, str]) -> None:
    servicer, address = service
    transport = connect(address)
    transport.enroll()
    servicer.break_at = {0, 2, 3}
    assert [chunk.offset_bytes for chunk in transport.stream_guides("t")] == [0, 100, 200, 300, 400]
    assert servicer.streams == [0, 0, 2, 3]


def test_a_stream_starts_where_it_is_asked_to(service: tuple[Service, str]) -> None:
    servicer, address = service
    transport = connect(address)
    transport.enroll()
    assert [chunk.offset_bytes for chunk in transport.stream_guides("t", (0, 0, 300))] == [300, 400]
    assert (servicer.requests[-1].first_segment, servicer.requests[-1].first_byte) == (0, 300)


def test_the_link_is_measured_on_chunks_that_had_waited_for_it(service: tuple[Service, str]) -> None:
    servicer, address = service
    servicer.pause_s, servicer.total = 0.002, 60
    transport = connect(address, Retry())
    transport.enroll()
    assert len(list(transport.stream_guides("t"))) == 60
    assert 100 / 0.05 < transport.traffic.download_bytes_per_s < 130 / 0.002
