"""Files that are whole or absent, whatever happens to the process or the power.

A file is written beside its place, flushed to the disk and then renamed, and the folder is flushed too,
because it is the folder that holds the name. A sealed file begins with the SHA-256 of what follows. A sealed
pair is two such files of the same content, written one after the other: damage to either loses nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from .errors import StoreError, StoreFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_file(path: Path, data: bytes) -> None:
    """Puts bytes under a name: all of them or, whatever happens, none. Raises StoreFull or StoreError."""
    _replace(path, data)
    sync_folder(path.parent)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb", opener=private_opener) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise store_error(error, path, "write") from error


def private_opener(name: str, flags: int) -> int:
    """For open(): a file that it makes is its owner's alone."""
    return os.open(name, flags, 0o600)


def sync_folder(folder: Path) -> None:
    """Makes a rename last: it is the folder, not the file, that holds the name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_or_none(path: Path) -> bytes | None:
    """A file's bytes, None where there is no such file. Raises StoreError when it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise store_error(error, path, "read") from error


def write_sealed(path: Path, data: bytes) -> None:
    """Writes a sealed file. Raises as write_file."""
    write_file(path, _seal(data))


def read_sealed(path: Path) -> bytes | None:
    """What a sealed file holds, or None. A damaged one is removed."""
    content = read_or_none(path)
    if content is None:
        return None
    seal, _, data = content.partition(b"\n")
    if hashlib.sha256(data).hexdigest().encode() != seal:
        path.unlink(missing_ok=True)
        return None
    return data


def pair_of(path: Path) -> tuple[Path, Path]:
    """The two files of a sealed pair, in the order in which they are written."""
    return path, path.with_name(path.name + ".copy")


def write_sealed_pair(path: Path, data: bytes) -> None:
    """Writes both files, each whole before the next is begun. Raises as write_file."""
    for file in pair_of(path):
        _replace(file, _seal(data))
    sync_folder(path.parent)


def read_sealed_pair(path: Path, newness: Callable[[bytes], int] = lambda data: 0) -> bytes | None:
    """The newer content of a pair; that of its first file among equals. None where neither file is whole.

    They differ only when the process ended between the two writes.
    """
    found = [data for data in map(read_sealed, pair_of(path)) if data is not None]
    return max(found, key=newness, default=None)


def _seal(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def store_error(error: OSError, path: Path, action: str) -> StoreError:
    """The one-line error for a failed read or write: StoreFull when space is what is missing."""
    if error.errno in _FULL:
        return StoreFull(f"no space left to {action} {path}: free some and start again, nothing was lost")
    return StoreError(
        f"cannot {action} {path}: {error.strerror}: correct it and start again, nothing was lost"
    )
