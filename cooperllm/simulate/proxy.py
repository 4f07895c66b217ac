"""A TCP proxy that is a device's link: everything between the device and the service passes it.

It stands in front of real gRPC and HTTP and knows neither. What it holds of a connection is bounded
(`Way.queue_bytes` each way): when that is full it stops reading, so that the sender's own flow control feels
the link. Rates are of TCP payload; a new connection waits one round trip, as its handshake would take.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from cooperllm.simulate.connection import Connection, bounded
from cooperllm.simulate.link import Link
from cooperllm.simulate.shaping import Way, resets, stalls

_LEAST_KERNEL_BYTES, _MOST_KERNEL_BYTES = 16 * 1024, 128 * 1024
_BACKLOG = 64


@dataclass
class _Count:
    """Bytes of one direction. `reached` is called when there were `most_bytes` of them."""

    reached: Callable[[], None]
    size_bytes: int = 0
    most_bytes: int | None = None

    def grant(self, size_bytes: int) -> int:
        left = size_bytes if self.most_bytes is None else max(self.most_bytes - self.size_bytes, 0)
        granted = min(size_bytes, left)
        self.size_bytes += granted
        return granted

    def delivered(self) -> None:
        if self.most_bytes is not None and self.size_bytes >= self.most_bytes:
            self.reached()


class Proxy:
    """One device's link, in front of some addresses of the service. Proxies makes it; any thread may call it.

    `ports` are those of 127.0.0.1 on which it listens, one for each of `targets`, in their order.
    """

    def __init__(self, link: Link, targets: Sequence[tuple[str, int]], seed: int) -> None:
        self.link = link
        self._seed, self._loop, now_s = seed, asyncio.get_running_loop(), time.monotonic()
        self._ways = (
            Way(link.down_bytes_per_s, link, 2 * seed, now_s),
            Way(link.up_bytes_per_s, link, 2 * seed + 1, now_s),
        )
        self._down, self._up = _Count(self._reset), _Count(self._reset)
        self._draws = resets(link, seed)
        self._draw_reset()
        self._connections: set[Connection] = set()
        self._sockets = [self._listening() for _ in targets]
        self.ports = tuple(int(own.getsockname()[1]) for own in self._sockets)
        self._tasks: set[asyncio.Task[None]] = set()
        for own, target in zip(self._sockets, targets, strict=True):
            self._spawn(self._accept(own, target))
        self._spawn(self._stall_now_and_then())

    @property
    def down_bytes(self) -> int:
        """What has been delivered to the device."""
        return self._down.size_bytes

    @property
    def up_bytes(self) -> int:
        """What has been delivered to the service."""
        return self._up.size_bytes

    @property
    def held_bytes(self) -> int:
        """What is on its way, in both directions of all connections."""
        return sum(connection.held_bytes for connection in tuple(self._connections))

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def change(self, link: Link) -> None:
        """Become another link while running. Resets and stalls go on as they were drawn."""

        def work() -> None:
            self.link, now_s = link, time.monotonic()
            for way, rate in zip(self._ways, (link.down_bytes_per_s, link.up_bytes_per_s), strict=True):
                way.change(rate, link, now_s)

        self._loop.call_soon_threadsafe(work)

    def stall(self, duration_s: float) -> None:
        """From now on nothing gets through, in either direction, for so long."""

        def work() -> None:
            for way in self._ways:
                way.stall(duration_s, time.monotonic())

        self._loop.call_soon_threadsafe(work)

    def reset(self) -> None:
        """Break all connections now; new ones are accepted."""
        self._loop.call_soon_threadsafe(self._break_all)

    def silence(self) -> None:
        """From now on the connections that are open carry nothing, without a sign; new ones are as ever."""

        def work() -> None:
            for connection in tuple(self._connections):
                connection.silence()

        self._loop.call_soon_threadsafe(work)

    def reset_after(self, down_bytes: int) -> None:
        """Break all connections once so many more bytes have come down: not one byte later."""

        def work() -> None:
            self._down.most_bytes = self._down.size_bytes + down_bytes

        self._loop.call_soon_threadsafe(work)

    async def end(self) -> None:
        """Break all connections and listen no more."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for own in self._sockets:
            own.close()

    # --- in the loop's thread -------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, own: socket.socket, target: tuple[str, int]) -> None:
        while True:
            near, _ = await self._loop.sock_accept(own)
            self._spawn(self._serve(near, target))

    async def _serve(self, near: socket.socket, target: tuple[str, int]) -> None:
        down, up = self._ways
        connection = Connection(near, up, down, self._up, self._down)
        self._connections.add(connection)
        try:
            await connection.run(target, self._kernel_bytes(), handshake_s=self.link.rtt_s)
        finally:
            self._connections.discard(connection)

    async def _stall_now_and_then(self) -> None:
        for pause_s, duration_s in stalls(self.link, self._seed):
            await asyncio.sleep(pause_s)
            self.stall(duration_s)
            await asyncio.sleep(duration_s)

    def _listening(self) -> socket.socket:
        own = bounded(socket.socket(socket.AF_INET, socket.SOCK_STREAM), self._kernel_bytes())
        own.bind(("127.0.0.1", 0))
        own.listen(_BACKLOG)
        own.setblocking(False)
        return own

    def _kernel_bytes(self) -> int:
        most = max(way.queue_bytes for way in self._ways)
        return min(max(most, _LEAST_KERNEL_BYTES), _MOST_KERNEL_BYTES)

    def _draw_reset(self) -> None:
        drawn = next(self._draws, None)
        self._down.most_bytes = None if drawn is None else self._down.size_bytes + drawn

    def _reset(self) -> None:
        self._draw_reset()
        self._break_all()

    def _break_all(self) -> None:
        for connection in tuple(self._connections):
            connection.abort()


class Proxies:
    """All proxies of a run, in one thread of their own. Leaving its `with` block stops them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._all: list[Proxy] = []

    def __enter__(self) -> Proxies:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add(self, link: Link, targets: Sequence[tuple[str, int]], seed: int = 0) -> Proxy:
        """Start one. `seed` decides its jitter, stalls and resets. Raises OSError when no port is free."""

        async def work() -> Proxy:
            self._all.append(Proxy(link, targets, seed))
            return self._all[-1]

        return asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    def stop(self) -> None:
        """Break every connection and end the thread. Calling it again does nothing."""
        if not self._thread.is_alive():
            return

        async def work() -> None:
            for proxy in self._all:
                await proxy.end()

        asyncio.run_coroutine_threadsafe(work(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
