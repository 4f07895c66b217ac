"""The scalars of a task under way, direction by direction, in a file that grows.

    <seal> {"task_id": "..."}\n          the first line
    <seal> [0.125, -2.5]\n               one line for every group of directions that was finished

A seal is the first 16 hex digits of SHA-256(seal of the line before, text of this line). So a file that was
cut or altered anywhere still gives every whole line before that place, and nothing behind it.

A line is handed to the system at once: what ends the process alone loses none. It is forced to the disk at
most once a second, because that may cost more than a direction: a loss of power costs the last second.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from .durable import read_or_none, store_error, sync_folder

SYNC_INTERVAL_S = 1.0
_SEAL_DIGITS = 16


class Progress:
    """One task's finished scalars in wire form. Every method that writes raises StoreFull or StoreError."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._synced_s = clock()
        self._task_id, self._scalars, self._seal, self._size_bytes = _read(path)

    def of(self, task_id: str) -> list[float]:
        """What was finished of a task: nothing, where the file is of another."""
        return list(self._scalars) if task_id and task_id == self._task_id else []

    def add(self, task_id: str, scalars: list[float]) -> None:
        """Keeps the next scalars of a task; those of any other task go."""
        before, written_bytes, head = self._seal, self._size_bytes, b""
        if task_id != self._task_id:
            written_bytes = 0
            before, head = _sealed("", {"task_id": task_id})
        seal, line = _sealed(before, scalars)
        self._write(written_bytes, head + line)
        self._scalars = scalars if head else self._scalars + scalars
        self._task_id, self._seal, self._size_bytes = task_id, seal, written_bytes + len(head + line)

    def sync(self) -> None:
        """Forces what was added to the disk, now."""
        try:
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
            sync_folder(self._path.parent)
            self._synced_s = self._clock()
        except OSError as error:
            raise store_error(error, self._path, "write") from error

    def clear(self) -> None:
        """Forgets everything: the task is reported or lost."""
        self._path.unlink(missing_ok=True)
        self._task_id, self._scalars, self._seal, self._size_bytes = "", [], "", 0

    def _write(self, offset: int, data: bytes) -> None:
        """Writes behind the last whole line, whatever an interrupted write left there."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(descriptor, offset)
                if os.pwrite(descriptor, data, offset) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if self._clock() - self._synced_s >= SYNC_INTERVAL_S:
                    os.fsync(descriptor)
                    sync_folder(self._path.parent)
                    self._synced_s = self._clock()
            finally:
                os.close(descriptor)
        except OSError as error:
            raise store_error(error, self._path, "write") from error


def _sealed(before: str, content: object) -> tuple[str, bytes]:
    text = json.dumps(content)
    seal = _seal(before, text)
    return seal, f"{seal} {text}\n".encode()


def _seal(before: str, text: str) -> str:
    return hashlib.sha256((before + text).encode()).hexdigest()[:_SEAL_DIGITS]


def _read(path: Path) -> tuple[str, list[float], str, int]:
    """(task, scalars, last seal, bytes) of the whole lines at the file's beginning."""
    task_id, scalars, before, size_bytes = "", list[float](), "", 0
    for line in (read_or_none(path) or b"").splitlines(keepends=True):
        seal, _, text = line.decode(errors="replace").partition(" ")
        if not text.endswith("\n") or _seal(before, text[:-1]) != seal:
            break
        content = json.loads(text)
        if size_bytes == 0:
            task_id = content["task_id"]
        else:
            scalars += content
        before, size_bytes = seal, size_bytes + len(line)
    return task_id, scalars, before, size_bytes
