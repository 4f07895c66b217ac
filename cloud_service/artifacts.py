"""Files named by the SHA-256 of their bytes. A name either holds exactly these bytes or does not exist."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from pathlib import Path

from device_runtime.errors import ArtifactError, StoreError, StoreFull

_COPY_BYTES = 1 << 20


def storage_error(error: OSError, path: Path) -> StoreError:
    """Names what the operator has to correct so that `path` can be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFull(f"no space left for {path}: free some and start again; what was stored is intact")
    return StoreError(f"cannot write {path}: {error.strerror or error}: correct this and start again")


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Artifacts:
    """A folder of content-addressed files, safe against a kill at any moment.

    Raises StoreError or StoreFull when the folder cannot be written: show it and stop; nothing stored is
    lost.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob("*.part"):
                leftover.unlink()
        except OSError as error:
            raise storage_error(error, folder) from None

    def path(self, sha256_hex: str) -> Path:
        """Where the file with this name would be. The caller has checked that the name is 64 hex digits."""
        return self.folder / sha256_hex

    def has(self, sha256_hex: str) -> bool:
        """Whether the bytes of this name are here."""
        return self.path(sha256_hex).is_file()

    def size_bytes(self, sha256_hex: str) -> int:
        """Size of a stored file. Raises ArtifactError when it is not here."""
        try:
            return self.path(sha256_hex).stat().st_size
        except OSError:
            raise ArtifactError(
                f"artifact {sha256_hex} is not in {self.folder}: restore the data folder"
            ) from None

    def put(self, data: bytes) -> str:
        """Stores bytes and returns their SHA-256 in hex; on disk (fsync, rename, fsync) when this returns."""
        name = hashlib.sha256(data).hexdigest()
        target = self.path(name)
        if target.is_file():
            return name
        part = self.folder / f"{uuid.uuid4().hex}.part"
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
            sync_folder(self.folder)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise storage_error(error, target) from None
        return name

    def put_file(self, source: Path) -> str:
        """Stores a copy of a file and returns its SHA-256 in hex."""
        digest = hashlib.sha256()
        part = self.folder / f"{uuid.uuid4().hex}.part"
        try:
            with source.open("rb") as reader, part.open("wb") as writer:
                while block := reader.read(_COPY_BYTES):
                    digest.update(block)
                    writer.write(block)
                writer.flush()
                os.fsync(writer.fileno())
            name = digest.hexdigest()
            part.replace(self.path(name))
            sync_folder(self.folder)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise storage_error(error, self.folder) from None
        return name

    def get(self, sha256_hex: str) -> bytes:
        """Reads and checks a file. Raises ArtifactError when it is missing or altered: restore the data
        folder.
        """
        try:
            data = self.path(sha256_hex).read_bytes()
        except OSError:
            raise ArtifactError(
                f"artifact {sha256_hex} is not in {self.folder}: restore the data folder"
            ) from None
        if hashlib.sha256(data).hexdigest() != sha256_hex:
            raise ArtifactError(
                f"artifact {sha256_hex} in {self.folder} was altered: restore the data folder"
            )
        return data

    def part(self, sha256_hex: str, offset_bytes: int, size_bytes: int) -> bytes:
        """Some of a file's bytes, unchecked: whoever gets all of them checks them. Raises ArtifactError when
        the file is not here.
        """
        try:
            with self.path(sha256_hex).open("rb") as file:
                file.seek(offset_bytes)
                return file.read(size_bytes)
        except OSError:
            raise ArtifactError(
                f"artifact {sha256_hex} is not in {self.folder}: restore the data folder"
            ) from None

    def remove(self, sha256_hex: str) -> None:
        """Forgets a file; nothing happens when it is not here."""
        self.path(sha256_hex).unlink(missing_ok=True)
