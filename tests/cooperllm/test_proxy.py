"""Real sockets through a proxy: rate, delay, resets, stalls, and no more held than a link would hold."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from cooperllm.simulate.link import Link
from cooperllm.simulate.proxy import Proxies, Proxy

FAST = Link(50e6, 50e6)


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    with Proxies() as found:
        yield found
    assert not any(thread.name == "links" for thread in threading.enumerate())


class Server:
    """Does `work` with every connection, each in a thread, until the test is over."""

    def __init__(self, work: Callable[[socket.socket], None]) -> None:
        self._work = work
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._open.append(connection)
                threading.Thread(target=self._guarded, args=(connection,), daemon=True).start()

    def _guarded(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._work(connection)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._open:
            connection.close()


@contextlib.contextmanager
def serving(work: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    server = Server(work)
    try:
        yield server.address
    finally:
        server.close()


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def pour(connection: socket.socket) -> None:
    """Sends all that is taken."""
    while True:
        connection.sendall(bytes(65536))


def dialled(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.ports[0]), timeout=10)


def read(connection: socket.socket, size_bytes: int) -> int:
    """Reads so much, or to the end; answers how much came."""
    left = size_bytes
    while left and (data := connection.recv(min(left, 65536))):
        left -= len(data)
    return size_bytes - left


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_data_pass_unchanged_both_ways_and_are_counted(proxies: Proxies) -> None:
    data = bytes(range(256)) * 2000
    with serving(echo) as target, dialled(proxy := proxies.add(FAST, [target])) as own:
        threading.Thread(target=own.sendall, args=(data,), daemon=True).start()
        got = bytearray()
        while len(got) < len(data):
            got += own.recv(65536)
        assert bytes(got) == data
        assert (proxy.up_bytes, proxy.down_bytes) == (len(data), len(data))
        own.shutdown(socket.SHUT_WR)  # the end passes, too
        assert own.recv(1) == b""
        until(lambda: proxy.connections == 0)


def test_the_rate_holds_and_may_change_while_it_runs(proxies: Proxies) -> None:
    link = Link(1e6, 1e6)
    with serving(pour) as target, dialled(proxy := proxies.add(link, [target])) as own:
        read(own, 50_000)  # past what an idle link saved up
        start_s = time.monotonic()
        read(own, 500_000)
        assert 0.4 < time.monotonic() - start_s < 1.5  # a busy machine reads late, never early
        proxy.change(replace(link, down_bytes_per_s=0.1e6))
        read(own, 100_000)  # what was on its way
        start_s = time.monotonic()
        read(own, 50_000)
        assert 0.4 < time.monotonic() - start_s < 1.5


@pytest.mark.ci
def test_two_connections_share_the_rate(proxies: Proxies) -> None:
    counts = [0, 0]

    def take(index: int, own: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := own.recv(65536):
                counts[index] += len(data)

    with serving(pour) as target:
        proxy = proxies.add(Link(1e6, 1e6), [target])
        with dialled(proxy) as one, dialled(proxy) as other:
            for index, own in enumerate((one, other)):
                threading.Thread(target=take, args=(index, own), daemon=True).start()
            until(lambda: min(counts) > 50_000)
            before, start_s = list(counts), time.monotonic()
            time.sleep(0.5)
            took_s = time.monotonic() - start_s
            moved = [after - start for after, start in zip(counts, before, strict=True)]
    assert sum(moved) / took_s == pytest.approx(1e6, rel=0.2)
    assert min(moved) > 0.3 * sum(moved)


def test_a_round_trip_takes_its_time_also_for_a_new_connection(proxies: Proxies) -> None:
    with serving(echo) as target:
        proxy = proxies.add(Link(1e6, 1e6, rtt_s=0.1), [target])
        start_s = time.monotonic()
        with dialled(proxy) as own:
            own.sendall(b"x")
            own.recv(1)
            assert time.monotonic() - start_s == pytest.approx(0.2, abs=0.05)
            start_s = time.monotonic()
            own.sendall(b"x")
            own.recv(1)
            assert time.monotonic() - start_s == pytest.approx(0.1, abs=0.04)


def test_a_reset_comes_after_the_byte_it_was_asked_for(proxies: Proxies) -> None:
    with serving(pour) as target:
        proxy = proxies.add(FAST, [target])
        proxy.reset_after(123_456)
        with dialled(proxy) as own:
            with pytest.raises(ConnectionResetError):
                read(own, 50_000_000)
            assert proxy.down_bytes == 123_456
            until(lambda: proxy.connections == 0)
        with dialled(proxy) as own:  # the next connection lives
            assert read(own, 200_000) == 200_000
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                read(own, 50_000_000)


def test_resets_are_drawn_from_the_seed(proxies: Proxies) -> None:
    def lives(seed: int) -> list[int]:
        proxy, sizes = proxies.add(replace(FAST, reset_every_bytes=50_000), [target], seed), []
        for _ in range(3):
            before = proxy.down_bytes
            # The reset may come before the caller hears that it is connected.
            with pytest.raises(ConnectionResetError), dialled(proxy) as own:
                read(own, 50_000_000)
            until(lambda: proxy.connections == 0)
            sizes.append(proxy.down_bytes - before)
        return sizes

    with serving(pour) as target:
        assert lives(1) == lives(1) != lives(2)


def test_a_stall_lets_nothing_through_and_loses_nothing(proxies: Proxies) -> None:
    with serving(echo) as target, dialled(proxy := proxies.add(FAST, [target])) as own:
        own.sendall(b"before")
        assert read(own, 6) == 6
        proxy.stall(0.4)
        start_s = time.monotonic()
        own.sendall(b"after it")
        assert read(own, 8) == 8
        assert time.monotonic() - start_s == pytest.approx(0.4, abs=0.15)


@pytest.mark.ci
def test_a_sender_feels_the_link(proxies: Proxies) -> None:
    """Into a stalled link a sender gets rid of a bounded number of bytes, not of all that it has."""
    sent = [0]

    def pour_counted(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)  # its kernel is no part of it
        while True:
            sent[0] += connection.send(bytes(4096))

    link = Link(1e6, 1e6, rtt_s=0.02)
    with serving(pour_counted) as target, dialled(proxy := proxies.add(link, [target])) as own:
        read(own, 100_000)
        proxy.stall(5.0)
        time.sleep(0.4)
        stopped = sent[0]
        time.sleep(0.3)
        assert sent[0] == stopped
        assert sent[0] - proxy.down_bytes < 300_000
        assert proxy.held_bytes < 100_000  # 20 kB in flight, four pieces of 10 kB, one that was being read


def test_nobody_behind_it_is_a_broken_connection(proxies: Proxies) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    with pytest.raises(ConnectionResetError), dialled(proxies.add(FAST, [address])) as own:
        own.recv(1)
