"""The calls of federation.proto from a device's side: signed, with deadlines, repeated while repeating can
help.

Nothing here knows what a task means. Every byte of the protocol that enters or leaves is counted in
`traffic`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from protos import federation_pb2 as pb
from protos import federation_pb2_grpc as rpc

from .download import Downloads
from .errors import OptionError, ProtocolMismatch, ServerUnreachable
from .guide_source import GuideSource
from .identity import Identity
from .retry import Retry, Transient
from .statuses import meaning_of

PROTOCOL_VERSION = 1
MOST_MESSAGE_BYTES = 4 * 1024 * 1024
DEFAULT_HTTP_PORT = 8080
_SERVICE = "/cooperllm.v1.Federation/"
_OPTIONS = [
    ("grpc.max_receive_message_length", MOST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MOST_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),  # the pauses that matter are Retry's
    # What gRPC makes of it is how long an attempt to connect may take: several round trips of a slow link.
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # What a stream may have under way, instead of a guess that grows to megabytes behind a slow link: as much
    # is lost when the link breaks, and held in the cloud while it stalls. Enough for 30 Mbit/s over 70 ms.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 * 1024),
    ("grpc.enable_retries", 0),
]

Reply = TypeVar("Reply", bound=Message)


@dataclass
class Traffic:
    """Bytes that crossed the wire in this process, and how fast the larger answers came."""

    downlink_bytes: int = 0
    uplink_bytes: int = 0
    download_bytes_per_s: float = 0.0

    def received(self, size_bytes: int) -> None:
        self.downlink_bytes += size_bytes

    def sent(self, size_bytes: int) -> None:
        self.uplink_bytes += size_bytes


class Transport:
    """One service, as a device sees it.

    `server` is HOST:PORT of gRPC; `artifacts_url` overrides what Enroll says about HTTP. With `tls` both are
    encrypted, and `ca_file` (PEM) replaces the system's roots.

    Raises, from every call, ServerUnreachable (try again later), NotEnrolled (set the clock, enroll again),
    ServerRefused (do not repeat), and what each call lists.
    """

    def __init__(
        self,
        server: str,
        identity: Identity,
        artifacts_url: str = "",
        tls: bool = False,
        ca_file: str | None = None,
        token: str = "",
        name: str = "",
        deadline_s: float = 30.0,
        retry: Retry | None = None,
        time_s: Callable[[], float] = time.time,
    ) -> None:
        self._host, _, port = server.rpartition(":")
        if not self._host or not port.isdecimal():
            raise OptionError(f"{server!r} is no address of a service: write HOST:PORT")
        self.server, self.identity, self.traffic = server, identity, Traffic()
        self.retry = retry or Retry()
        self._tls, self._ca_file, self._token, self._name = tls, ca_file, token, name
        self._artifacts_url, self._deadline_s, self._time_s = artifacts_url, deadline_s, time_s
        self._channel = self._open()
        self._stub = rpc.FederationStub(self._channel)
        self._downloads: Downloads | None = None

    def close(self) -> None:
        """Ends the connection and every call that is under way."""
        self._channel.close()

    def enroll(self) -> pb.EnrollReply:
        """Hands over the public key; the same key always gets the same client id.

        Raises EnrollmentRefused (ask the operator for a token) and ProtocolMismatch (update the app).
        """
        request = pb.EnrollRequest(
            public_key=self.identity.public_key, device_name=self._name[:64], enrollment_token=self._token
        )
        reply = self._call("Enroll", request, lambda s: self._stub.Enroll(request, timeout=s))
        if reply.protocol_version != PROTOCOL_VERSION:
            raise ProtocolMismatch(
                f"the service speaks protocol {reply.protocol_version}, this app {PROTOCOL_VERSION}: "
                "update the older one"
            )
        scheme = "https" if self._tls else "http"
        url = self._artifacts_url or reply.artifacts_url or f"{scheme}://{self._host}:{DEFAULT_HTTP_PORT}"
        self._downloads = Downloads(
            url,
            self._get_headers,
            self.retry,
            self._deadline_s,
            self._ca_file,
            self.traffic.received,
            self.traffic.sent,
        )
        return reply

    def check_in(self, request: pb.CheckInRequest) -> pb.CheckInReply:
        """Asks for work. Raises ProtocolMismatch: update the app."""
        return self._signed("CheckIn", request, self._stub.CheckIn)

    def send_scalars(self, part: pb.Scalars) -> pb.ScalarsAck:
        """Hands in scalars ahead of their report, in one attempt: what is lost goes with the report.

        Raises TaskLost: send no more of this task.
        """
        try:
            return self._once(
                "SendScalars",
                part,
                lambda s: self._stub.SendScalars(
                    part, timeout=s, metadata=self._metadata("SendScalars", part)
                ),
            )
        except Transient as error:
            raise ServerUnreachable(
                f"no answer from {self.server} ({error}): the report will tell"
            ) from error

    def send_report(self, report: pb.Report) -> pb.Ack:
        """Hands in a result; repeating it under its id is safe.

        Raises TaskLost (drop it, check in again), VersionRefused (drop it, fetch a snapshot, check in again)
        and ScalarsMissing (send it with all its scalars).
        """
        return self._signed("SendReport", report, self._stub.SendReport)

    def fetch(self, sha256: str, size_bytes: int | None, target: Path, most_bytes: int) -> None:
        """Fetches an artifact by hash into a file, resuming what is there. See Downloads.fetch."""
        if self._downloads is None:
            self.enroll()
        assert self._downloads is not None
        before, started = self.traffic.downlink_bytes, self.retry.clock()
        self._downloads.fetch(sha256, size_bytes, target, most_bytes)
        self._measure(before, started)

    def stream_guides(self, task_id: str, start: tuple[int, int, int] = (0, 0, 0)) -> Iterator[pb.GuideChunk]:
        """Yields the chunks of a task's guides from (segment, guide, byte) on, until the last.

        A broken stream goes on at the first byte that is missing. Leave it early by closing it.

        Raises TaskLost: check in again.
        """
        source = GuideSource(task_id, start, self._open_stream, self.retry.clock)
        try:
            while True:
                chunk = self.retry.run(source.next, self.server)
                self.traffic.received(chunk.ByteSize())
                if source.link_bytes_per_s:
                    self.traffic.download_bytes_per_s = source.link_bytes_per_s
                yield chunk
                if chunk.last:
                    return
        finally:
            source.close()

    # --- one call -------------------------------------------------------------------------------------------

    def _open(self) -> grpc.Channel:
        # A connection that has died without a sign, say with a network that the phone has left, is noticed
        # while a stream waits; else the next call would wait on the same one. An answer may have to come
        # behind all that a slow link still carries.
        patience_ms = int(1000 * self._deadline_s)
        options = [
            *_OPTIONS,
            ("grpc.keepalive_time_ms", patience_ms),
            ("grpc.keepalive_timeout_ms", 2 * patience_ms),
            ("grpc.http2.ping_timeout_ms", 2 * patience_ms),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        if not self._tls:
            return grpc.insecure_channel(self.server, options=options)
        roots = None
        if self._ca_file is not None:
            try:
                roots = Path(self._ca_file).read_bytes()
            except OSError as error:
                raise OptionError(
                    f"cannot read {self._ca_file}: {error.strerror}: name a PEM file"
                ) from error
        return grpc.secure_channel(self.server, grpc.ssl_channel_credentials(roots), options=options)

    def _open_stream(self, request: pb.StreamGuidesRequest) -> Any:
        self.traffic.sent(request.ByteSize())
        metadata = self._metadata("StreamGuides", request)
        return self._stub.StreamGuides(request, timeout=10 * self._deadline_s, metadata=metadata)

    def _signed(self, method: str, request: Message, call: Callable[..., Reply]) -> Reply:
        return self._call(
            method, request, lambda s: call(request, timeout=s, metadata=self._metadata(method, request))
        )

    def _call(self, method: str, request: Message, call: Callable[[float], Reply]) -> Reply:
        """Repeats a call until it is answered; every repetition is signed anew, for its own time."""
        return self.retry.run(lambda: self._once(method, request, call), self.server)

    def _once(self, method: str, request: Message, call: Callable[[float], Reply]) -> Reply:
        started = self.retry.clock()
        self.traffic.sent(request.ByteSize())
        try:
            reply = call(self._deadline_s)
        except grpc.RpcError as error:
            timed_out = self.retry.clock() - started >= self._deadline_s
            raise meaning_of(method, error, timed_out) from error
        self.traffic.received(reply.ByteSize())
        return reply

    def _metadata(self, method: str, request: Message) -> tuple[tuple[str, str], ...]:
        time_ms = int(self._time_s() * 1000)
        signature = self.identity.sign_call(_SERVICE + method, time_ms, request.SerializeToString())
        return tuple(self._signature(time_ms, signature).items())

    def _get_headers(self, path: str) -> dict[str, str]:
        time_ms = int(self._time_s() * 1000)
        return self._signature(time_ms, self.identity.sign_get(path, time_ms))

    def _signature(self, time_ms: int, signature: bytes) -> dict[str, str]:
        return {
            "cooperllm-client": self.identity.client_id,
            "cooperllm-time-ms": str(time_ms),
            "cooperllm-signature": signature.hex(),
        }

    def _measure(self, before_bytes: int, started_s: float) -> None:
        """Keeps the speed of the last download that was large enough to tell."""
        size_bytes, took_s = self.traffic.downlink_bytes - before_bytes, self.retry.clock() - started_s
        if size_bytes >= 64 * 1024 and took_s > 0:
            self.traffic.download_bytes_per_s = size_bytes / took_s
