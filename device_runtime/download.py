"""Fetching artifacts over HTTP by their SHA-256: resumable, bounded in size, and checked before anything is
used.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
from collections.abc import Callable
from functools import partial
from io import FileIO
from pathlib import Path
from urllib.parse import urlsplit

from .durable import store_error, sync_folder
from .errors import ArtifactError, NotEnrolled, OptionError, ServerRefused
from .retry import Retry, Transient

_CHUNK_BYTES = 64 * 1024


class Downloads:
    """GET /v1/artifacts/{sha256} of one service. `headers` makes the signature headers of a path."""

    def __init__(
        self,
        url: str,
        headers: Callable[[str], dict[str, str]],
        retry: Retry,
        timeout_s: float = 30.0,
        ca_file: str | None = None,
        received: Callable[[int], None] = lambda _: None,
        sent: Callable[[int], None] = lambda _: None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(f"{url!r} is no address of artifacts: write http://HOST:PORT")
        self.url = url
        self._secure = parts.scheme == "https"
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._headers, self._retry, self._timeout_s, self._ca_file = headers, retry, timeout_s, ca_file
        self._received, self._sent = received, sent

    def fetch(self, sha256: str, size_bytes: int | None, target: Path, most_bytes: int) -> None:
        """Puts the artifact at `target`. Bytes that are already in `target.part` are not fetched again.

        `size_bytes` is what was promised, or None; never are more than `most_bytes` written.

        Raises ArtifactError when the bytes are not what the hash promised (they are removed: fetch again),
        ServerUnreachable after all repetitions, ServerRefused when the service has no such artifact,
        StoreFull.
        """
        limit = most_bytes if size_bytes is None else size_bytes
        if limit > most_bytes:
            raise ArtifactError(f"artifact of {size_bytes} bytes refused: this device accepts {most_bytes}")
        part = target.with_name(target.name + ".part")
        have = _size_bytes(part)
        while not self._retry.run(partial(self._advance, sha256, part, limit, have), self.url):
            have = _size_bytes(part)
            self._retry.sleep(self._retry.uniform(0.0, self._retry.first_pause_s))
        with open(part, "a+b") as file:  # "a": an empty answer has left no file
            file.seek(0)
            digest = hashlib.sha256()
            while data := file.read(_CHUNK_BYTES):
                digest.update(data)
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256 or (size_bytes is not None and part.stat().st_size != size_bytes):
            part.unlink(missing_ok=True)
            raise ArtifactError(f"artifact {sha256[:12]} arrived altered: it was dropped, fetch it again")
        os.replace(part, target)
        sync_folder(target.parent)

    def _advance(self, sha256: str, part: Path, limit: int, have: int) -> bool:
        """One request; whether nothing is missing after it. Raises Transient when it brought nothing beyond
        `have` bytes.

        A link that breaks again and again but brings something each time is slow, not gone: patience is for
        the rest.
        """
        try:
            self._continue(sha256, part, limit)
        except Transient:
            if _size_bytes(part) > have:
                return False
            raise
        return True

    def _continue(self, sha256: str, part: Path, limit: int) -> None:
        """One request for the bytes that are missing; a broken one leaves what arrived, for the next."""
        have = _size_bytes(part)
        if have > limit:
            part.unlink()
            have = 0
        if have == limit:  # the process ended between the last byte and the check
            return
        path = f"{self._prefix}/v1/artifacts/{sha256}"
        headers = self._headers(path) | ({"Range": f"bytes={have}-"} if have else {})
        connection = self._connect()
        try:
            connection.request("GET", path, headers=headers)
            self._sent(len(path) + sum(len(name) + len(value) + 4 for name, value in headers.items()))
            response = connection.getresponse()
            if (
                response.status == 416
            ):  # nothing is missing, or the part is of something else: the hash will tell
                return
            self._check_status(response, sha256)
            continues = response.status == 206 and _starts_at(response, have)
            if response.status == 206 and not continues:
                part.unlink(missing_ok=True)
                raise Transient("answered another range than asked")
            self._write_body(response, part, have if continues else 0, limit)
        except (OSError, http.client.HTTPException) as error:
            raise Transient(type(error).__name__ if not str(error) else str(error)) from error
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        context = ssl.create_default_context(cafile=self._ca_file)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=context)

    def _check_status(self, response: http.client.HTTPResponse, sha256: str) -> None:
        if response.status in (200, 206):
            return
        if response.status in (408, 425, 429) or response.status >= 500:
            raise Transient(f"HTTP {response.status}")
        if response.status in (401, 403):
            raise NotEnrolled(
                "the service does not accept this device's signature: set the clock, then enroll again"
            )
        raise ServerRefused(
            f"the service has no artifact {sha256[:12]} (HTTP {response.status}): check its address"
        )

    def _write_body(self, response: http.client.HTTPResponse, part: Path, start: int, limit: int) -> None:
        """Appends the body to the part file, up to the limit. Only the writes may raise StoreFull."""
        written = start
        with _open_part(part, start) as file:
            while data := response.read(_CHUNK_BYTES):
                self._received(len(data))
                written += len(data)
                if written > limit:
                    part.unlink(missing_ok=True)
                    raise ArtifactError(
                        f"an artifact is larger than the {limit} bytes promised: it was dropped"
                    )
                _append(file, data, part)
        expected = response.getheader("Content-Length")
        if expected is not None and expected.isdecimal() and written - start < int(expected):
            raise Transient("the connection broke off")


def _size_bytes(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _append(file: FileIO, data: bytes, part: Path) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise store_error(error, part, "write") from error


def _open_part(part: Path, start: int) -> FileIO:
    """The part file, cut to the bytes that are kept and positioned behind them."""
    try:
        file = FileIO(part, "r+" if start else "w")
        file.seek(start)
        file.truncate()
        return file
    except OSError as error:
        raise store_error(error, part, "write") from error


def _starts_at(response: http.client.HTTPResponse, first: int) -> bool:
    return (response.getheader("Content-Range") or "").startswith(f"bytes {first}-")
