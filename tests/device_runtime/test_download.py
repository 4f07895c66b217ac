"""Artifacts over real HTTP on loopback: resumed, bounded, checked."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from device_runtime.download import Downloads
from device_runtime.errors import ArtifactError, NotEnrolled, OptionError, ServerRefused, ServerUnreachable
from device_runtime.retry import Retry

DATA = bytes(range(256)) * 1200
NAME = hashlib.sha256(DATA).hexdigest()


class Site:
    """One artifact and how its server misbehaves."""

    def __init__(self) -> None:
        self.data = DATA
        self.break_after: list[int] = []  # bytes of a response before the connection is cut, one a request
        self.status = 0
        self.ranges = True
        self.asked: list[str] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []


@pytest.fixture
def site() -> Iterator[tuple[Site, str]]:
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.headers.get("Range", ""))
            state.paths.append(self.path)
            state.headers.append(dict(self.headers.items()))
            start = 0
            if state.ranges and (found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
                start = int(found[1])
            body = state.data[start:]
            self.send_response(state.status or (206 if start else 200))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.data) - 1}/{len(state.data)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.break_after.pop(0)] if state.break_after else body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def downloads(url: str, **options: Any) -> Downloads:
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    retry = Retry(first_contact_s=5.0, clock=lambda: clock[0], sleep=sleep, uniform=lambda low, high: high)
    return Downloads(url, lambda path: {"signed": path}, retry, timeout_s=5.0, **options)


def test_a_whole_file_in_one_request_signed_for_its_path(site: tuple[Site, str], tmp_path: Path) -> None:
    state, url = site
    counted: list[int] = []
    downloads(url, received=counted.append).fetch(NAME, len(DATA), tmp_path / "f", 10**6)
    assert (tmp_path / "f").read_bytes() == DATA
    assert state.headers[0]["signed"] == state.paths[0] == f"/v1/artifacts/{NAME}"
    assert sum(counted) == len(DATA)
    assert not (tmp_path / "f.part").exists()


def test_broken_connections_are_resumed_where_they_broke(site: tuple[Site, str], tmp_path: Path) -> None:
    state, url = site
    state.break_after = [1000, 200_000, 0]
    downloads(url).fetch(NAME, len(DATA), tmp_path / "f", 10**6)
    assert (tmp_path / "f").read_bytes() == DATA
    assert state.asked == ["", "bytes=1000-", "bytes=201000-", "bytes=201000-"]


def test_another_process_goes_on_with_the_part(site: tuple[Site, str], tmp_path: Path) -> None:
    state, url = site
    (tmp_path / "f.part").write_bytes(DATA[:5000])
    downloads(url).fetch(NAME, len(DATA), tmp_path / "f", 10**6)
    assert state.asked == ["bytes=5000-"]
    (tmp_path / "g.part").write_bytes(DATA)  # it ended between the last byte and the check
    downloads(url).fetch(NAME, len(DATA), tmp_path / "g", 10**6)
    assert len(state.asked) == 1
    assert (tmp_path / "f").read_bytes() == (tmp_path / "g").read_bytes() == DATA


def test_a_server_without_ranges_starts_over(site: tuple[Site, str], tmp_path: Path) -> None:
    state, url = site
    state.ranges, state.break_after = False, [1000]
    downloads(url).fetch(NAME, len(DATA), tmp_path / "f", 10**6)
    assert (tmp_path / "f").read_bytes() == DATA
    assert len(state.asked) == 2


@pytest.mark.parametrize("part", [b"", b"x" * 100, b"x" * (len(DATA) + 5)])
def test_altered_bytes_are_dropped_and_can_be_fetched_again(
    site: tuple[Site, str], tmp_path: Path, part: bytes
) -> None:
    state, url = site
    state.data = DATA[:-1] + b"!"
    if part:
        (tmp_path / "f.part").write_bytes(part)
    with pytest.raises(ArtifactError, match="fetch it again"):
        downloads(url).fetch(NAME, len(DATA), tmp_path / "f", 10**6)
    assert not list(tmp_path.iterdir())
    state.data = DATA
    downloads(url).fetch(NAME, len(DATA), tmp_path / "f", 10**6)
    assert (tmp_path / "f").read_bytes() == DATA


def test_size_is_bounded_before_and_while_it_comes(site: tuple[Site, str], tmp_path: Path) -> None:
    state, url = site
    with pytest.raises(ArtifactError, match="this device accepts 1000"):
        downloads(url).fetch(NAME, len(DATA), tmp_path / "f", 1000)
    assert not state.asked
    state.data = DATA * 2
    for size_bytes, most_bytes in ((len(DATA), 10**6), (None, len(DATA))):
        with pytest.raises(ArtifactError, match="larger than"):
            downloads(url).fetch(NAME, size_bytes, tmp_path / "f", most_bytes)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, ServerRefused), (401, NotEnrolled), (503, ServerUnreachable), (429, ServerUnreachable)],
)
def test_what_an_http_status_means(
    site: tuple[Site, str], tmp_path: Path, status: int, error: type[Exception]
) -> None:
    state, url = site
    state.status = status
    with pytest.raises(error):
        downloads(url).fetch(NAME, len(DATA), tmp_path / "f", 10**6)


def test_a_server_that_is_not_there_and_an_address_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable, match="no answer from"):
        downloads("http://127.0.0.1:1").fetch(NAME, 10, tmp_path / "f", 100)
    for url in ("ftp://x", "cloud.example:8080", "http://"):
        with pytest.raises(OptionError, match="http://HOST:PORT"):
            downloads(url)


def test_patience_is_not_used_up_by_a_link_that_breaks_but_brings_something(
    site: tuple[Site, str], tmp_path: Path
) -> None:
    state, url = site
    state.break_after = [1000] * 200  # with growing pauses, the patience of 5 s would end at the fourth
    downloads(url).fetch(NAME, len(DATA), tmp_path / "f", 10**6)
    assert (tmp_path / "f").read_bytes() == DATA
    assert state.asked == ["", *(f"bytes={1000 * n}-" for n in range(1, 201))]


def test_a_server_that_starts_over_and_breaks_at_the_same_byte_is_given_up(
    site: tuple[Site, str], tmp_path: Path
) -> None:
    state, url = site
    state.ranges, state.break_after = False, [1000] * 200
    with pytest.raises(ServerUnreachable):
        downloads(url).fetch(NAME, len(DATA), tmp_path / "f", 10**6)
    assert len(state.asked) < 60
