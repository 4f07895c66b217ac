"""Reaching an adapter version by whichever exact form the cloud sent: record, delta, snapshot, or none at
all.

Whatever the form, what results must have the SHA-256 that was promised; nothing is kept before that is so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protos import federation_pb2 as pb

from .directions import expand
from .errors import (
    ArtifactError,
    BadArtifact,
    BadVersion,
    BundleError,
    CooperLLMError,
    NotEnrolled,
    ServerRefused,
)
from .guides import Slices, decode
from .local_update import Core
from .zo.errors import ZoError
from .zo.layout import Layout

MOST_RECORD_DIRECTIONS = 2**24  # of one record, over all devices of a round

FetchArtifact = Callable[[bytes, int], Path]
"""(SHA-256, size in bytes) -> a file with these bytes. Raises ArtifactError or ServerError."""


class Replayer(Core, Protocol):
    """A core that can be told which scale and guides a record means."""

    def set_scale(self, scale: NDArray[np.float32] | None) -> None: ...

    def set_guides(self, guides: dict[bytes, Slices]) -> dict[bytes, int]: ...


class Held(Protocol):
    """What this device kept of earlier rounds, by hash. A guide is None when it was not kept, or damaged
    since.
    """

    def guide(self, sha256: bytes) -> Slices | None: ...

    def scale(self, sha256: bytes) -> NDArray[np.float32]: ...


def reach(
    update: pb.VersionUpdate,
    held_version: int | None,
    engine: Replayer,
    layout: Layout,
    held: Held,
    fetch: FetchArtifact,
) -> None:
    """Turns the adapter in the engine into the version that `update` leads to.

    `held_version` is the version in the engine now, or None when it is of no use as a start.

    Raises BadVersion when the form does not lead there: the adapter in the engine is then as it was. Ask for
    a snapshot (check in without an adapter hash).
    """
    before = engine.adapter.copy()
    try:
        form = update.WhichOneof("form")
        if form in ("records", "delta") and held_version != update.from_version:
            raise BadVersion(
                f"the update starts from version {update.from_version}, which this device does not hold"
            )
        if form == "records":
            sent = {guide.sha256: guide for guide in update.records.guides}
            for record in update.records.record:
                replay(record, engine, layout, held, sent)
        elif form == "delta":
            from .core.kernels import decode_delta  # here: whoever only reads has no core

            delta = fetch(update.delta.sha256, update.delta.size_bytes).read_bytes()
            engine.adapter[:] = decode_delta(delta, before, layout)
        elif form == "snapshot":
            engine.adapter[:] = _read_snapshot(
                fetch(update.snapshot.sha256, update.snapshot.size_bytes), layout
            )
        elif form != "unchanged":
            raise BadVersion("the update has no form that this release knows: update the app")
        if adapter_sha256(engine.adapter) != update.adapter_sha256:
            raise BadVersion("the update does not lead to the adapter it names: ask for a snapshot")
    except NotEnrolled:
        engine.adapter[:] = before
        raise
    except (ZoError, ArtifactError, BadArtifact, BundleError, ServerRefused) as error:
        engine.adapter[:] = before
        raise BadVersion(str(error)) from error
    except BaseException:
        engine.adapter[:] = before
        raise


def replay(
    record: pb.Record,
    engine: Replayer,
    layout: Layout,
    held: Held,
    sent: Mapping[bytes, pb.EncodedGuide],
) -> None:
    """Applies one record to the adapter in the engine. `sent` are guides that came along; those that the
    record names are decoded for it. Raises BadVersion when this device lacks what it names.
    """
    engine.set_scale(held.scale(record.scale_sha256) if record.scale_sha256 else None)
    named = {term.guide_sha256 for direction in record.directions for term in direction.guides}
    named |= {term.guide_sha256 for term in record.guides}
    guides: dict[bytes, Slices] = {}
    for sha256 in sorted(named):
        slices = _decoded(sent[sha256], layout) if sha256 in sent else held.guide(sha256)
        if slices is None:
            raise BadVersion("a record names a guide that this device does not hold: ask for a snapshot")
        guides[sha256] = slices
    if sum(direction.count for direction in record.directions) > MOST_RECORD_DIRECTIONS:
        raise BadVersion(f"a record has over {MOST_RECORD_DIRECTIONS} directions: ask for a snapshot")
    index = engine.set_guides(guides)
    directions = expand(record.directions, record.active_segments, index)
    terms = [(index[term.guide_sha256], term.coefficient) for term in record.guides]
    segments = list(record.active_segments)
    try:
        engine.update(
            record.epsilon, record.update_seed, segments, directions, list(record.coefficients), terms
        )
    except CooperLLMError as error:
        raise BadVersion(f"a record cannot be replayed: {error}") from error


def _decoded(guide: pb.EncodedGuide, layout: Layout) -> Slices:
    found: Slices = {}
    for item in guide.segments:
        span = layout.segment_slice(item.segment)
        if span.start == span.stop:
            raise BadArtifact("a guide names a segment without parameters: send another")
        found[item.segment] = decode(item.encoding, item.data, span.stop - span.start)
    return found


def adapter_sha256(adapter: NDArray[np.float32]) -> bytes:
    """The SHA-256 of the adapter's little-endian float32 bytes: 32 raw bytes."""
    return hashlib.sha256(adapter.astype("<f4", copy=False).data).digest()


def _read_snapshot(path: Path, layout: Layout) -> NDArray[np.float32]:
    from .bundle import read_adapter

    return read_adapter(path, layout)


def read_scale(path: Path, parameters: int) -> NDArray[np.float32]:
    """The scale in a .safetensors file: float32 (n,), every value positive and finite. Raises BadArtifact."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            scale = file.get_tensor("scale")
    except (SafetensorError, OSError) as error:
        raise BadArtifact("the scale is no readable safetensors file: send another") from error
    if scale.dtype != np.float32 or scale.shape != (parameters,):
        raise BadArtifact(f"the scale is not float32 of length {parameters}: send another")
    if not np.all(np.isfinite(scale)) or not np.all(scale > 0):
        raise BadArtifact("the scale has values that are not positive and finite: send another")
    return np.ascontiguousarray(scale)
