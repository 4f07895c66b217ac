"""What a device keeps on disk between two runs, written so that a crash at any moment loses at most the last
write.

    store/
      lock                     held while a process uses the folder
      key, key.copy            the device's private key (PEM), readable by its owner alone
      state, state.copy        everything small, as one document: see State
      progress                 scalars of the task under way: see progress.py
      personal                 what personalising changed: see personal.py
      signs                    whether both signs run in one forward: see signs.py
      adapters/<sha256>        float32 bytes of the adapter version that `state` names
      guides/<sha256>          encoded segments of the last task's guides, which a record may name, and of the
                               version that came with them
      artifacts/<sha256>       downloaded files; `.part` while they are on their way
      bundles/<sha256>/        a bundle's four files, by the hash of its manifest

Every file (but progress, which grows) is written beside its place, flushed to the disk, and then renamed:
under its name there is either the old content or the new one, never half of it. Reads check the hash; a file
that fails is treated as absent and removed, so that it is fetched or computed again. Key and state could not
be: they are kept twice, so that damage to one file forgets neither who the device is nor what it disclosed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from .durable import (
    pair_of,
    read_or_none,
    read_sealed,
    read_sealed_pair,
    store_error,
    sync_folder,
    write_file,
    write_sealed,
    write_sealed_pair,
)
from .errors import StoreInUse
from .progress import Progress

_FOLDERS = ("adapters", "guides", "artifacts", "bundles")


@dataclass(frozen=True)
class State:
    """The small part of a device's state. Hashes are hex, "" means none."""

    bundle_sha256: str = ""
    adapter_version: int = 0
    adapter_sha256: str = ""
    pending_report: str = ""  # a serialised Report in hex, until it is acknowledged
    pending_round: int = 0
    pending_first: int = 0  # of its scalars, so many were acknowledged ahead of it
    disclosed: dict[str, list[int]] = field(default_factory=dict)  # round -> [scalars, in the head alone]
    # The task under way, if `disclosed` has it before its report: [name, scalars, in the head alone].
    charged: list[str | int] = field(default_factory=list)
    evaluated: dict[str, str] = field(default_factory=dict)  # round -> adapter that was evaluated
    # Those kept: name -> segment -> [GuideEncoding, SHA-256 of its encoded bytes].
    guides: dict[str, dict[str, list[int | str]]] = field(default_factory=dict)
    # What left, oldest first: [ms since 1970, round, kind, scalars, in the head alone, bytes of the report].
    disclosures: list[list[float | int | str]] = field(default_factory=list)
    writes: int = 0  # how often the state was written: of two copies the newer counts


class Store:
    """One device's folder, locked for this process. Close it, or use it in a `with` block.

    Raises StoreInUse when another process holds the folder, StoreError when it cannot be used at all. Every
    method that writes raises StoreFull when no space is left; what was there before stays intact.
    """

    def __init__(self, folder: str | Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = Path(folder)
        try:
            for name in _FOLDERS:
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise store_error(error, self.folder, "create") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StoreInUse(
                f"{self.folder} is in use by another process: stop it or choose another folder"
            ) from error
        self._remove_leftovers()
        self._state = self._read_state()
        self._updating = threading.Lock()  # guides arrive on a thread of their own
        self.progress = Progress(self.folder / "progress", clock)

    def close(self) -> None:
        """Gives the folder back. Calling it again does nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the small state ------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What was last written."""
        return self._state

    def update(self, **changes: object) -> State:
        """Writes the state with these fields changed, all of them or none. Returns it."""
        with self._updating:
            state = replace(self._state, **changes)  # type: ignore[arg-type]
            if state != self._state:
                state = replace(state, writes=self._state.writes + 1)
                write_sealed_pair(self.folder / "state", json.dumps(asdict(state), sort_keys=True).encode())
                self._state = state
            return state

    def read_key(self) -> bytes | None:
        """The device's private key in PEM, or None when there is none yet (or it was damaged)."""
        return read_sealed_pair(self.folder / "key")

    def write_key(self, pem: bytes) -> None:
        """Keeps the device's private key, readable by its owner alone."""
        write_sealed_pair(self.folder / "key", pem)

    def read_personal(self) -> bytes | None:
        """What personalising left, or None: see personal.py."""
        return read_sealed(self.folder / "personal")

    def write_personal(self, data: bytes) -> None:
        """Keeps what personalising changed."""
        write_sealed(self.folder / "personal", data)

    def forget_personal(self) -> None:
        """Deletes what personalising changed, and nothing else."""
        (self.folder / "personal").unlink(missing_ok=True)
        sync_folder(self.folder)

    # --- by hash --------------------------------------------------------------------------------------------

    def path(self, kind: str, sha256: str) -> Path:
        """Where the file of this hash lies or would lie; `kind` is adapters, guides, artifacts or bundles."""
        if kind not in _FOLDERS or len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise ValueError("kind or hash")
        return self.folder / kind / sha256

    def read(self, kind: str, sha256: str) -> bytes | None:
        """The bytes that have this hash, or None. A file that no longer has its hash is removed."""
        path = self.path(kind, sha256)
        data = read_or_none(path)
        if data is not None and hashlib.sha256(data).hexdigest() != sha256:
            path.unlink(missing_ok=True)
            return None
        return data

    def write(self, kind: str, data: bytes) -> str:
        """Keeps bytes under their own hash, which it returns (hex)."""
        sha256 = hashlib.sha256(data).hexdigest()
        write_file(self.path(kind, sha256), data)
        return sha256

    def keep_only(self, kind: str, hashes: Iterable[str]) -> None:
        """Removes all files of a kind but these, `.part` files included."""
        keep = set(hashes)
        for path in (self.folder / kind).iterdir():
            if path.name not in keep:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def write_adapter(self, version: int, data: bytes) -> str:
        """Makes these float32 bytes the adapter version that the device holds. Returns their hash (hex).

        The bytes are safe on disk before the state names them, and the older ones go only after that.
        """
        sha256 = self.write("adapters", data)
        self.update(adapter_version=version, adapter_sha256=sha256)
        self.keep_only("adapters", [sha256])
        return sha256

    def read_adapter(self) -> bytes | None:
        """The float32 bytes of the adapter version that `state` names, or None when they are absent or
        damaged.
        """
        return self.read("adapters", self._state.adapter_sha256) if self._state.adapter_sha256 else None

    def forget(self) -> None:
        """Deletes everything but the lock: key, state, adapters, bundles, all. The next use starts anew."""
        # First what names the rest, so that a crash in between leaves nothing half known.
        for name in ("state", "key"):
            for path in pair_of(self.folder / name):
                path.unlink(missing_ok=True)
        for name in ("personal", "signs"):
            (self.folder / name).unlink(missing_ok=True)
        self.progress.clear()
        self._state = State()
        for name in _FOLDERS:
            self.keep_only(name, [])
        sync_folder(self.folder)

    # --- files ----------------------------------------------------------------------------------------------

    def _remove_leftovers(self) -> None:
        """Temporary files of a process that was killed while it wrote."""
        for folder in (self.folder, *(self.folder / name for name in _FOLDERS)):
            for path in folder.glob("*.tmp"):
                path.unlink(missing_ok=True)

    def _read_state(self) -> State:
        data = read_sealed_pair(self.folder / "state", lambda data: int(json.loads(data).get("writes", 0)))
        if data is None:
            return State()
        known = set(State.__dataclass_fields__)  # a field of a newer release is not ours to understand
        return State(**{name: value for name, value in json.loads(data).items() if name in known})
