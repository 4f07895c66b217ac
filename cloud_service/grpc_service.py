"""The calls of federation.proto over gRPC. Requests are handled as raw bytes first: those are what was
signed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message

from cloud_service import wire
from cloud_service.callers import Callers
from device_runtime.errors import PortInUse, StoreError
from protos import federation_pb2 as pb

_LOG = logging.getLogger("cooperllm.serve")
_SERVICE = "cooperllm.v1.Federation"
_THREADS = 32
# Streams beyond these wait for a thread; gRPC answers RESOURCE_EXHAUSTED when too many wait.
_MOST_CALLS = 512
_OPTIONS = [
    ("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second service on the same port is a mistake, not load balancing
]


class GrpcService:
    """The gRPC side of the service. `failed` is told of a store that can no longer be written."""

    def __init__(self, callers: Callers, failed: Callable[[Exception], None]) -> None:
        self._callers = callers
        self._federation = callers.federation
        self._failed = failed
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc"),
            options=_OPTIONS,
            maximum_concurrent_rpcs=_MOST_CALLS,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, self._handlers()),)
        )

    def listen(self, host: str, port: int, tls: tuple[bytes, bytes] | None) -> int:
        """Opens the port (0: any free one) and answers its number. `tls` is (key, certificate chain), both
        PEM.

        Raises PortInUse: show it; the operator stops the other process or chooses another port.
        """
        address = f"{host}:{port}"
        try:
            if tls is None:
                return int(self._server.add_insecure_port(address))
            return int(self._server.add_secure_port(address, grpc.ssl_server_credentials([tls])))
        except RuntimeError:  # taken since serve looked
            raise PortInUse(
                f"cannot listen on {address}: stop the process that does, or choose another --grpc-port"
            ) from None

    def start(self) -> None:
        """Begins to answer."""
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """Refuses new calls, lets those under way end, and returns when all have."""
        self._server.stop(grace_s).wait()

    def _handlers(self) -> dict[str, Any]:
        return {
            "Enroll": grpc.unary_unary_rpc_method_handler(self._enroll),
            "CheckIn": grpc.unary_unary_rpc_method_handler(self._check_in),
            "StreamGuides": grpc.unary_stream_rpc_method_handler(self._stream_guides),
            "SendReport": grpc.unary_unary_rpc_method_handler(self._send_report),
        }

    def _enroll(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        def answer() -> Message:
            self._callers.limit.check(_peer(context))
            return self._federation.enroll(wire.parse(pb.EnrollRequest(), data))

        return self._answered("Enroll", context, "enroll", answer)

    def _check_in(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        def answer() -> Message:
            client_id = self._caller("CheckIn", data, context)
            self._federation.metrics.moved("check_in_requests", len(data))
            return self._federation.check_in(client_id, wire.parse(pb.CheckInRequest(), data))

        return self._answered("CheckIn", context, "check_in_replies", answer)

    def _send_report(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        def answer() -> Message:
            client_id = self._caller("SendReport", data, context)
            self._federation.metrics.moved("reports", len(data))
            return self._federation.send_report(client_id, wire.parse(pb.Report(), data))

        return self._answered("SendReport", context, "acks", answer)

    def _stream_guides(self, data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            client_id = self._caller("StreamGuides", data, context)
            chunks = self._federation.stream_guides(client_id, wire.parse(pb.StreamGuidesRequest(), data))
            for chunk in chunks:
                if chunk is None:
                    time.sleep(0.02)
                    continue
                encoded = chunk.SerializeToString()
                self._federation.metrics.moved("guides", len(encoded))
                yield encoded
        except Exception as error:
            self._abort("StreamGuides", context, error)
        self._count("StreamGuides", "OK")

    def _caller(self, method: str, data: bytes, context: grpc.ServicerContext) -> str:
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        path = f"/{_SERVICE}/{method}"
        return self._callers.device(metadata, lambda time_ms: wire.signed_call(path, time_ms, data))

    def _answered(
        self, method: str, context: grpc.ServicerContext, kind: str, answer: Callable[[], Message]
    ) -> bytes:
        try:
            encoded = answer().SerializeToString()
        except Exception as error:
            self._abort(method, context, error)
        self._federation.metrics.moved(kind, len(encoded))
        self._count(method, "OK")
        return encoded

    def _abort(self, method: str, context: grpc.ServicerContext, error: Exception) -> NoReturn:
        status, detail = "UNAVAILABLE", "the service cannot answer now: repeat later"
        if isinstance(error, wire.WireError):
            status, detail = error.status, error.detail
        elif isinstance(error, StoreError):
            self._failed(error)
        else:
            _LOG.exception("%s failed", method)
        self._count(method, status)
        context.abort(getattr(grpc.StatusCode, status), detail)

    def _count(self, method: str, status: str) -> None:
        self._federation.metrics.requests.labels(method, status).inc()


def _peer(context: grpc.ServicerContext) -> str:
    """The caller's address without its port: ipv4:127.0.0.1:4711 -> ipv4:127.0.0.1."""
    return str(context.peer()).rpartition(":")[0]
