"""One TCP connection that passes a link: two pumps, each with a bounded queue of data on their way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Coroutine
from typing import Any, Protocol

from cooperllm.simulate.shaping import Way

_SEGMENT_BYTES = 1448
"""Packets as small as on a real network: loopback's of 64 KiB would let the peer's kernel hold megabytes."""


class Meter(Protocol):
    """Counts what is delivered, and may end it."""

    def grant(self, size_bytes: int) -> int:
        """Count these bytes, or as many of them as may still pass, which is what is answered."""

    def delivered(self) -> None:
        """What was granted has been delivered."""


class Connection:
    """A device's connection; make it in the task that runs it."""

    def __init__(self, near: socket.socket, up: Way, down: Way, sent: Meter, received: Meter) -> None:
        self._near, self._up, self._down, self._sent, self._received = near, up, down, sent, received
        self._task = asyncio.current_task()
        self._pumps: list[_Pump] = []

    @property
    def held_bytes(self) -> int:
        """What has been read and not been delivered yet."""
        return sum(pump.held_bytes for pump in self._pumps)

    async def run(self, target: tuple[str, int], kernel_bytes: int, handshake_s: float) -> None:
        """Carry data both ways until both sides have ended, or one has broken off: then break the other.

        A service that does not listen breaks the device's connection: it will try again.
        """
        far = bounded(socket.socket(socket.AF_INET, socket.SOCK_STREAM), kernel_bytes)
        far.setblocking(False)
        try:
            await asyncio.sleep(handshake_s)
            await asyncio.get_running_loop().sock_connect(far, target)
            for end in (self._near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pumps = [
                _Pump(self._near, far, self._up, self._sent),
                _Pump(far, self._near, self._down, self._received),
            ]
            await _together([part for pump in self._pumps for part in (pump.read(), pump.write())])
        except (OSError, asyncio.CancelledError):
            for end in (self._near, far):
                _break(end)
        finally:
            self._near.close()
            far.close()

    def silence(self) -> None:
        """Carry nothing more, and let neither side know, as when a phone has left a network."""
        for pump in self._pumps:
            pump.silent = True

    def abort(self) -> None:
        """Break it off: both sides see a reset."""
        for pump in self._pumps:
            pump.broken = True  # at once: a pump that need not wait would go on until it does
        if self._task is not None:
            self._task.cancel()


class _Pump:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, way: Way, meter: Meter) -> None:
        self._source, self._sink, self._way, self._meter = source, sink, way, meter
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._room = asyncio.Event()
        self.held_bytes, self.broken, self.silent = 0, False, False

    async def read(self) -> None:
        """Take pieces in, and give each the time at which it arrives; wait while too much is on its way."""
        loop, last_s, data = asyncio.get_running_loop(), 0.0, b"-"
        while data:
            while self.held_bytes >= self._way.queue_bytes:
                self._room.clear()
                await self._room.wait()
            data = await loop.sock_recv(self._source, self._way.piece_bytes)
            # Jitter moves data, but a connection keeps its order.
            last_s = max(last_s, self._way.arrival_s(len(data), time.monotonic()))
            self.held_bytes += len(data)
            self._queue.put_nowait((last_s, data))

    async def write(self) -> None:
        """Deliver each piece at its time; an empty one is the end of the source."""
        loop = asyncio.get_running_loop()
        while True:
            arrival_s, data = await self._queue.get()
            # A stall may begin while this waits.
            while (left_s := max(arrival_s, self._way.stalled_until_s) - time.monotonic()) > 0:
                await asyncio.sleep(left_s)
            if self.broken:
                return
            if self.silent:
                await asyncio.Event().wait()  # until it is broken off
            if not data:
                break
            await loop.sock_sendall(self._sink, data[: self._meter.grant(len(data))])
            self.held_bytes -= len(data)
            self._room.set()
            self._meter.delivered()
        with contextlib.suppress(OSError):  # the other side may have gone already
            self._sink.shutdown(socket.SHUT_WR)


def bounded(own: socket.socket, kernel_bytes: int) -> socket.socket:
    """Bound what this machine's kernel holds of what a peer sends; before it listens or connects."""
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kernel_bytes // 2)  # Linux doubles it
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)
    return own


async def _together(parts: list[Coroutine[Any, Any, None]]) -> None:
    """Run all to their end, or to the first failure: then none goes on, and it is raised."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _break(own: socket.socket) -> None:
    """Make close() send a reset: no waiting, nothing delivered after."""
    with contextlib.suppress(OSError):
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
