"""The calls of federation.proto over gRPC. Requests are handled as raw bytes first: those are what was
signed.

One thread runs an event loop that carries every call; what blocks (SQL, files, signatures) runs in a pool of
threads. A stream of guides holds a thread only while its next chunk is made, never while a link is slow, so
devices with slow links hold up nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import Message

from cloud_service import signatures, wire
from cloud_service.callers import Callers
from device_runtime.errors import PortInUse, StoreError
from device_runtime.guides import OF_VERSIONS
from protos import federation_pb2 as pb

_LOG = logging.getLogger("cooperllm.serve")
_SERVICE = "cooperllm.v1.Federation"
_THREADS = 16
# Making a chunk may take long, too: streams have threads of their own, so that a check-in need not wait.
_STREAM_THREADS = 4
# Of all kinds; gRPC answers RESOURCE_EXHAUSTED beyond. A stream costs the service about one chunk and what
# HTTP/2's flow control lets it send, some 400 KiB.
_MOST_CALLS = 1024
_NOT_READY_S = 1.0  # how long a stream waits at most before it looks again
_OPTIONS = [
    ("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second service on the same port is a mistake, not load balancing
    # Either side asks whether a silent one is still there, and the service has more patience: an answer may
    # come behind all that a slow link carries. By default, devices that ask are taken for hostile.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 300_000),
    ("grpc.http2.ping_timeout_ms", 300_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
]

Answer = TypeVar("Answer")
Context = grpc.aio.ServicerContext[bytes, bytes]


class GrpcService:
    """The gRPC side of the service. `failed` is told of a store that can no longer be written."""

    def __init__(self, callers: Callers, failed: Callable[[Exception], None]) -> None:
        self._callers = callers
        self._federation = callers.federation
        self._failed = failed
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc")
        self._stream_threads = ThreadPoolExecutor(_STREAM_THREADS, thread_name_prefix="guides")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grpc", daemon=True)
        self._server = self._loop.run_until_complete(self._make_server())
        self._sampled = asyncio.Event()  # another one whenever a segment of a guide has come
        self._federation.shelf.sampled = self._wake_streams

    async def _make_server(self) -> grpc.aio.Server:
        """A server belongs to the loop that runs when it is made."""
        server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_MOST_CALLS)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, self._handlers()),))
        return server

    def listen(self, host: str, port: int, tls: tuple[bytes, bytes] | None) -> int:
        """Opens the port (0: any free one) and answers its number. `tls` is (key, certificate chain), both
        PEM.

        Raises PortInUse: show it; the operator stops the other process or chooses another port.
        """
        address = f"{host}:{port}"
        try:
            if tls is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, grpc.ssl_server_credentials([tls]))
        except RuntimeError:  # taken since serve looked
            self.stop(0.0)
            raise PortInUse(
                f"cannot listen on {address}: stop the process that does, or choose another --grpc-port"
            ) from None

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result()

    def stop(self, grace_s: float) -> None:
        """Refuses new calls, lets those under way end, and returns when all have. It cannot start again."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._server.stop(grace_s), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        else:
            self._loop.run_until_complete(self._server.stop(None))
        for pool in (self._threads, self._stream_threads):
            pool.shutdown(wait=True, cancel_futures=True)
        self._loop.close()

    def _handlers(self) -> dict[str, Any]:
        return {
            "Enroll": grpc.unary_unary_rpc_method_handler(self._enroll),
            "CheckIn": grpc.unary_unary_rpc_method_handler(self._check_in),
            "StreamGuides": grpc.unary_stream_rpc_method_handler(self._stream_guides),
            "SendScalars": grpc.unary_unary_rpc_method_handler(self._send_scalars),
            "SendReport": grpc.unary_unary_rpc_method_handler(self._send_report),
        }

    async def _enroll(self, data: bytes, context: Context) -> bytes:
        def answer() -> Message:
            self._callers.limit.check(_peer(context))
            return self._federation.enroll(wire.parse(pb.EnrollRequest(), data))

        return await self._answered("Enroll", context, "enroll", answer)

    async def _check_in(self, data: bytes, context: Context) -> bytes:
        def answer() -> Message:
            client_id = self._caller("CheckIn", data, context)
            self._federation.metrics.moved("check_in_requests", len(data))
            return self._federation.check_in(client_id, wire.parse(pb.CheckInRequest(), data))

        return await self._answered("CheckIn", context, "check_in_replies", answer)

    async def _send_scalars(self, data: bytes, context: Context) -> bytes:
        def answer() -> Message:
            client_id = self._caller("SendScalars", data, context)
            self._federation.metrics.moved("scalars", len(data))
            return self._federation.send_scalars(client_id, wire.parse(pb.Scalars(), data))

        return await self._answered("SendScalars", context, "acks", answer)

    async def _send_report(self, data: bytes, context: Context) -> bytes:
        def answer() -> Message:
            client_id = self._caller("SendReport", data, context)
            self._federation.metrics.moved("reports", len(data))
            return self._federation.send_report(client_id, wire.parse(pb.Report(), data))

        return await self._answered("SendReport", context, "acks", answer)

    async def _stream_guides(self, data: bytes, context: Context) -> None:
        """Sends chunk after chunk, each when gRPC has taken the one before: one is held at any time.

        An iterator that answers None has its next segment not ready; it is asked again when one was sampled.
        One that is given up needs no closing: nobody else refers to it.
        """

        def begin() -> tuple[str, Iterator[pb.GuideChunk | None]]:
            client_id = self._caller("StreamGuides", data, context)
            request = wire.parse(pb.StreamGuidesRequest(), data)
            return request.task_id, self._federation.stream_guides(client_id, request)

        try:
            task_id, chunks = await self._in(self._threads, begin)
            while True:
                sampled = self._sampled  # before the look, so that nothing comes between both
                found = await self._in(self._stream_threads, lambda: _next(chunks))
                if isinstance(found, _End):
                    break
                if found is None:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(sampled.wait(), _NOT_READY_S)
                    continue
                segment, kind, encoded = found
                self._federation.metrics.moved(kind, len(encoded))
                start_ms = 1000 * time.time()
                if not await _written(encoded, context):
                    raise asyncio.CancelledError
                if kind == "guides":
                    self._federation.deliveries.took(task_id, segment, start_ms, 1000 * time.time())
        except asyncio.CancelledError:
            self._count("StreamGuides", "CANCELLED")
            raise
        except Exception as error:
            await self._abort("StreamGuides", context, error)
        self._count("StreamGuides", "OK")

    def _wake_streams(self) -> None:
        """From any thread: a segment has come, whoever waits looks again."""

        def wake() -> None:
            self._sampled.set()
            self._sampled = asyncio.Event()

        with contextlib.suppress(RuntimeError):  # the loop has ended: so have the streams
            self._loop.call_soon_threadsafe(wake)

    def _caller(self, method: str, data: bytes, context: Context) -> str:
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        path = f"/{_SERVICE}/{method}"
        return self._callers.device(metadata, lambda time_ms: signatures.signed_call(path, time_ms, data))

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[], Answer]) -> Answer:
        return await self._loop.run_in_executor(pool, work)

    async def _answered(
        self, method: str, context: Context, kind: str, answer: Callable[[], Message]
    ) -> bytes:
        try:
            encoded = await self._in(self._threads, lambda: answer().SerializeToString())
        except Exception as error:
            await self._abort(method, context, error)
        self._federation.metrics.moved(kind, len(encoded))
        self._count(method, "OK")
        return encoded

    async def _abort(self, method: str, context: Context, error: Exception) -> NoReturn:
        status, detail = "UNAVAILABLE", "the service cannot answer now: repeat later"
        if isinstance(error, wire.WireError):
            status, detail = error.status, error.detail
        elif isinstance(error, StoreError):
            self._failed(error)
        else:
            _LOG.error("%s failed", method, exc_info=error)
        self._count(method, status)
        await context.abort(getattr(grpc.StatusCode, status), detail)

    def _count(self, method: str, status: str) -> None:
        self._federation.metrics.requests.labels(method, status).inc()


class _End:
    """What an iterator at its end answers: StopIteration cannot leave a future."""


def _next(chunks: Iterator[pb.GuideChunk | None]) -> tuple[int, str, bytes] | _End | None:
    """The next chunk's segment, what it is of, and its bytes; None where none is ready."""
    for chunk in chunks:
        if chunk is None:
            return None
        kind = "versions" if chunk.encoding in OF_VERSIONS else "guides"
        return chunk.segment, kind, chunk.SerializeToString()
    return _End()


async def _written(encoded: bytes, context: Context) -> bool:
    """Whether gRPC has taken a message. It raises an error of its own where the device has just gone."""
    try:
        await context.write(encoded)
    except Exception as error:
        _LOG.debug("a stream of guides broke: %s", error)
        return False
    return True


def _peer(context: Context) -> str:
    """The caller's address without its port: ipv4:127.0.0.1:4711 -> ipv4:127.0.0.1."""
    return str(context.peer()).rpartition(":")[0]
