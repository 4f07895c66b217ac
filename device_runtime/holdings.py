"""What a device holds for its tasks, and how it gets what is missing: bundle, adapter version, scale, guides.

Everything is named by its SHA-256, kept in the store, and fetched only when it is not there or was damaged.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from protos import federation_pb2 as pb

from . import versions
from .arrivals import Arrivals
from .arriving_version import ArrivingVersion
from .concentration import Supplies
from .errors import ArtifactError, BadArtifact, BundleError
from .guides import Slices
from .kept_pieces import KeptPieces
from .store import Store

if TYPE_CHECKING:
    from .bundle import Bundle
    from .engine import Engine

MOST_BUNDLE_FILE_BYTES = 4 * 2**30
MOST_SAFETENSORS_HEADER_BYTES = 2**20


class Cloud(Protocol):
    """What is used here of Transport."""

    def fetch(self, sha256: str, size_bytes: int | None, target: Path, most_bytes: int) -> None: ...

    def stream_guides(
        self, task_id: str, start: tuple[int, int, int], version: bytes
    ) -> Iterator[pb.GuideChunk]: ...


class Holdings:
    """The engine of the current bundle and everything by hash that belongs to it."""

    def __init__(self, store: Store, cloud: Cloud, make_engine: Callable[[Bundle], Engine]) -> None:
        self._store, self._cloud, self._make_engine = store, cloud, make_engine
        self._loading = threading.Lock()
        self.engine: Engine | None = None
        self._scale: tuple[bytes, NDArray[np.float32]] | None = None
        self.pieces = KeptPieces(store, lambda: self._loaded().segment_counts)

    # --- bundle ---------------------------------------------------------------------------------------------

    def bundle_sha256(self) -> str:
        """The bundle that is here, "" for none."""
        sha256 = self._store.state.bundle_sha256
        return sha256 if sha256 and self._store.path("bundles", sha256).is_dir() else ""

    def load(self, sha256: str) -> Engine:
        """The engine of a bundle, fetched first where it is missing or damaged.

        Raises BundleError when what the cloud serves under this hash is no bundle for this release.
        """
        with self._loading:
            if self.engine is None or self.engine.bundle.sha256 != sha256:
                self.engine = None  # lets the memory of the former go before the next is loaded
                self.engine, self._scale = self._make(sha256), None
            return self.engine

    def _make(self, sha256: str) -> Engine:
        bundle = self._open(sha256)
        engine = self._make_engine(bundle)
        if self._store.state.bundle_sha256 != sha256:
            self._store.update(bundle_sha256=sha256, adapter_sha256="", adapter_version=0)
            self._store.keep_only("bundles", [sha256])
        kept = self._store.read_adapter()
        if kept is not None:
            if len(kept) == 4 * bundle.layout.parameters:
                engine.adapter[:] = np.frombuffer(kept, "<f4")
            else:
                self._store.update(adapter_sha256="")
        return engine

    def _open(self, sha256: str) -> Bundle:
        from .bundle import Bundle

        folder = self._store.path("bundles", sha256)
        try:
            return Bundle.open(folder, sha256)
        except BundleError:  # not here, not complete, or damaged since
            self._fetch_bundle(folder, sha256)
        try:
            return Bundle.open(folder, sha256)
        except BundleError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _fetch_bundle(self, folder: Path, sha256: str) -> None:
        """Fetches the files that are missing or altered; finished ones and parts of others stay."""
        from .bundle import MANIFEST_NAME, MAX_MANIFEST_BYTES, PARTS, file_sha256, parse_manifest

        folder.mkdir(parents=True, exist_ok=True)
        manifest_path = folder / MANIFEST_NAME
        if not manifest_path.exists() or file_sha256(manifest_path) != sha256:
            self._cloud.fetch(sha256, None, manifest_path, MAX_MANIFEST_BYTES)
        manifest = parse_manifest(manifest_path.read_bytes(), "the service's bundle")
        for part in PARTS:
            entry = manifest.files[part]
            target = folder / entry.name
            if not target.exists() or file_sha256(target) != entry.sha256:
                self._cloud.fetch(entry.sha256, entry.size_bytes, target, MOST_BUNDLE_FILE_BYTES)

    def parameters(self) -> int | None:
        """n of the loaded bundle, None while none is loaded."""
        return None if self.engine is None else self.engine.bundle.layout.parameters

    # --- adapter version ------------------------------------------------------------------------------------

    def reach(self, update: pb.VersionUpdate) -> None:
        """Brings the adapter to the version that `update` leads to, in memory and on disk. Raises
        BadArtifact.
        """
        engine, state, held = self._loaded(), self._store.state, self._held_version
        with engine.lock:  # after it, a private adapter may be in the engine
            versions.reach(update, held, engine, engine.bundle.layout, self, self._fetch_artifact)
            reached = _bytes_of(engine.adapter)
        sha256 = update.adapter_sha256.hex()
        if (state.adapter_version, state.adapter_sha256) != (update.version, sha256):
            self._store.write_adapter(update.version, reached)

    def arriving(self, task: pb.Task, tell: Callable[[], None]) -> ArrivingVersion | None:
        """The version that comes with a task's guides, if it does; `tell` is called once it is kept."""
        if task.update.WhichOneof("form") != "streamed":
            return None
        engine, held = self._loaded(), self._held_version

        def keep() -> None:
            self._store.write_adapter(task.update.version, _bytes_of(engine.adapter))

        return ArrivingVersion(task, held, engine, engine.bundle.layout, self.pieces, keep, tell)

    @property
    def _held_version(self) -> int | None:
        """The version in the engine, or None when it is of no use as a start."""
        state = self._store.state
        return state.adapter_version if state.adapter_sha256 else None

    def forget_adapter(self) -> None:
        """Stops claiming a version, so that the next check-in is answered with a snapshot."""
        self._store.update(adapter_sha256="", adapter_version=0)

    def supplies(self, task: pb.Task, stopped: Callable[[], bool] = lambda: False) -> Supplies:
        """A task's scale and guides, fetched where they are not here."""
        sha256 = task.directions.scale_sha256
        scale = self.scale(sha256) if sha256 else None
        return Supplies(scale, self.guides(task, stopped) if task.directions.guides else {})

    def put(self, supplies: Supplies) -> dict[bytes, int]:
        """Puts scale and guides into the engine; answers under which index each guide is known there."""
        engine = self._loaded()
        with engine.lock:
            engine.set_scale(supplies.scale)
            return engine.set_guides(supplies.guides)

    # --- scale and guides -----------------------------------------------------------------------------------

    def scale(self, sha256: bytes) -> NDArray[np.float32]:
        """The scale with this hash. Raises BadArtifact when it is no scale for this adapter."""
        if self._scale is None or self._scale[0] != sha256:
            parameters = self._loaded().bundle.layout.parameters
            path = self._fetch_artifact(sha256, None)
            self._scale = (sha256, versions.read_scale(path, parameters))
        return self._scale[1]

    def guide(self, sha256: bytes) -> Slices | None:
        """All of a guide that was kept, or None."""
        return self.pieces.guide(sha256)

    def arrivals(
        self,
        task: pb.Task,
        stopped: Callable[[], bool] = lambda: False,
        version: pb.Guide | None = None,
    ) -> Arrivals:
        """All guides of a task, and the version that comes with them, on their way but for those that are
        here.

        What was kept for earlier tasks goes only now: the record that led to this version may have named it.
        """
        announced = [*([version] if version else []), *task.directions.guides]
        self.pieces.keep_only({guide.sha256 for guide in announced})
        counts, name = self._loaded().segment_counts, version.sha256 if version else b""

        def stream(start: tuple[int, int, int]) -> Iterator[pb.GuideChunk]:
            return self._cloud.stream_guides(task.task_id, start, name)

        return Arrivals(announced, counts, self.pieces, stream, stopped, name)

    def guides(self, task: pb.Task, stopped: Callable[[], bool] = lambda: False) -> dict[bytes, Slices]:
        """All guides of a task, decoded, once all are here. Raises as Arrivals does."""
        with self.arrivals(task, stopped) as arriving:
            for segment in sorted({k for guide in task.directions.guides for k in guide.segments}):
                arriving.await_segment(segment)
        whole = {guide.sha256: self.guide(guide.sha256) for guide in task.directions.guides}
        if any(slices is None for slices in whole.values()):
            raise BadArtifact("a guide was damaged on this device's disk: stream it again")
        return {name: slices for name, slices in whole.items() if slices is not None}

    # --- one artifact ---------------------------------------------------------------------------------------

    def _fetch_artifact(self, sha256: bytes, size_bytes: int | None) -> Path:
        """A file with these bytes, of at most the adapter's size; fetched a second time when it arrived
        altered.
        """
        name = sha256.hex()
        path = self._store.path("artifacts", name)
        if self._store.read("artifacts", name) is not None:
            return path
        most_bytes = 8 * self._loaded().bundle.layout.parameters + MOST_SAFETENSORS_HEADER_BYTES
        self._store.keep_only("artifacts", self._wanted(name))
        try:
            self._cloud.fetch(name, size_bytes, path, most_bytes)
        except ArtifactError:
            self._cloud.fetch(name, size_bytes, path, most_bytes)
        return path

    def _wanted(self, name: str) -> list[str]:
        """What stays beside an artifact that is about to come: its own part, and the scale in use."""
        return [f"{name}.part", *([self._scale[0].hex()] if self._scale else [])]

    def _loaded(self) -> Engine:
        if self.engine is None:
            raise RuntimeError("no bundle is loaded: call load() first")
        return self.engine


def _bytes_of(adapter: NDArray[np.float32]) -> bytes:
    return adapter.astype("<f4", copy=False).tobytes()
