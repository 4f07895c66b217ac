"""Adapter versions: how one is written down, and which exact form of it a device gets, and by which way.

Every version can be rebuilt: the oldest and every `snapshot_every_rounds`-th are kept whole, the others as
deltas. What is *sent* is bounded: a device that is behind the oldest of the last two snapshots gets the
newest version whole.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from safetensors.numpy import load, save
from sqlalchemy.engine import Connection, Row

from cloud_service.artifacts import Artifacts
from cloud_service.directions import Record
from cloud_service.messages import record_message
from cloud_service.plan import RoundState
from cloud_service.record_guides import MOST_BYTES, named_guides
from cloud_service.store import guide_segments, of_last_task, tasks, versions
from cloud_service.version_pieces import NOTHING, Rebuild, VersionPieces, prune_pieces
from device_runtime.core.kernels import decode_delta, encode_delta
from device_runtime.zo.layout import Layout
from device_runtime.zo.version import adapter_sha256
from protos import federation_pb2 as pb

Float32 = NDArray[np.float32]

FORMS = ("record", "delta", "snapshot")


def snapshot(adapter: Float32, layout: Layout) -> bytes:
    """A whole adapter as .safetensors, one float32 tensor per layout entry, as in a bundle."""
    encoded: bytes = save(
        {tensor.name: adapter[tensor.span].reshape(tensor.shape) for tensor in layout.tensors}
    )
    return encoded


def read_snapshot(data: bytes, layout: Layout) -> Float32:
    """The adapter in a snapshot that this service wrote."""
    tensors = load(data)
    return np.concatenate([tensors[tensor.name].reshape(-1) for tensor in layout.tensors])


def version_row(
    artifacts: Artifacts,
    layout: Layout,
    before: RoundState | None,
    after: RoundState,
    record: Record | None,
    keep_whole: bool,
) -> dict[str, Any]:
    """Writes a version's files and answers its row for the table `versions`; the caller commits it."""
    row: dict[str, Any] = {
        "number": after.version,
        "adapter_sha256": adapter_sha256(after.adapter).hex(),
        "state_sha256": artifacts.put(after.to_bytes()),
        "record": None if record is None else record_message(record).SerializeToString(),
    }
    if before is not None:
        delta = encode_delta(before.adapter, after.adapter, layout)
        row |= {"delta_sha256": artifacts.put(delta), "delta_size_bytes": len(delta)}
    if keep_whole or before is None:
        whole = snapshot(after.adapter, layout)
        row |= {"snapshot_sha256": artifacts.put(whole), "snapshot_size_bytes": len(whole)}
    return row


def prune(connection: Connection, artifacts: Artifacts, newest: int) -> None:
    """Forgets records, guides, pieces and states that nobody can need any more. Versions themselves stay
    rebuildable.
    """
    kept = sa.select(versions.c.number).where(versions.c.snapshot_sha256 != "", versions.c.number <= newest)
    whole = list(connection.execute(kept.order_by(versions.c.number.desc()).limit(2)).scalars())
    if len(whole) == 2:
        oldest = whole[-1]
        names, of_round = sa.select(guide_segments.c.sha256), guide_segments.c.round
        old = sa.and_(of_round < oldest, guide_segments.c.sha256 != "")
        gone = set(connection.execute(names.where(old)).scalars())
        gone -= set(connection.execute(names.where(of_round >= oldest)).scalars())
        for name in gone:
            artifacts.remove(name)
        # What was sent, and when it was sampled, stays for those who look back.
        connection.execute(sa.update(guide_segments).where(old).values(sha256=""))
        connection.execute(sa.update(versions).where(versions.c.number <= oldest).values(record=None))
    prune_pieces(connection, artifacts, newest)
    states = connection.execute(sa.select(versions.c.number, versions.c.state_sha256)).all()
    needed = {row.state_sha256 for row in states if row.number >= newest - 1}
    for row in states:
        if newest - 4 <= row.number < newest - 1 and row.state_sha256 not in needed:
            artifacts.remove(row.state_sha256)


def rebuild(connection: Connection, artifacts: Artifacts, layout: Layout, number: int) -> Float32:
    """The adapter of any version: from the last whole one before it, delta by delta; that of the newest two
    from their states.
    """
    state_sha256 = connection.execute(
        sa.select(versions.c.state_sha256).where(versions.c.number == number)
    ).scalar_one()
    if artifacts.path(state_sha256).is_file():
        return RoundState.from_bytes(artifacts.get(state_sha256)).adapter
    query = sa.select(versions).where(versions.c.number <= number).order_by(versions.c.number)
    rows = connection.execute(query).all()
    start = max(index for index, row in enumerate(rows) if row.snapshot_sha256)
    adapter = read_snapshot(artifacts.get(rows[start].snapshot_sha256), layout)
    for row in rows[start + 1 :]:
        adapter = decode_delta(artifacts.get(row.delta_sha256), adapter, layout)
    return adapter


@dataclass(frozen=True)
class Chain:
    """Chooses the form in which the newest version reaches a device. `version_form` is the job's."""

    artifacts: Artifacts
    layout: Layout
    version_form: str

    def update(
        self,
        connection: Connection,
        client: Row[Any],
        target: Row[Any],
        streamable: Collection[int] = (),
    ) -> pb.VersionUpdate:
        """How this client gets from what it holds to `target`, the newest version: in the stream of its
        guides, where it is no record and moves none but these segments.
        """
        update = pb.VersionUpdate(version=target.number, adapter_sha256=bytes.fromhex(target.adapter_sha256))
        form, steps, records = self._form(connection, client, target)
        if form == "unchanged":
            update.unchanged.SetInParent()
            return update
        if form != "snapshot":
            update.from_version = client.adapter_version
        if records is not None and form == "record":
            update.records.CopyFrom(records)
        elif pieces := self._announced(connection, client, target, form, streamable):
            update.streamed.CopyFrom(pieces)
        elif form == "delta":
            update.delta.CopyFrom(self._delta(connection, client, steps))
        else:
            update.snapshot.CopyFrom(self._snapshot(connection, target))
        return update

    def _announced(
        self,
        connection: Connection,
        client: Row[Any],
        target: Row[Any],
        form: str,
        streamable: Collection[int],
    ) -> pb.Guide | None:
        if not streamable or (form == "snapshot" and not set(self.layout.segments) <= set(streamable)):
            return None
        start = client.adapter_version if form == "delta" else NOTHING
        return self.pieces.announce(connection, start, target.number, self._rebuilt(connection), streamable)

    def _rebuilt(self, connection: Connection) -> Rebuild:
        return partial(rebuild, connection, self.artifacts, self.layout)

    def _form(
        self, connection: Connection, client: Row[Any], target: Row[Any]
    ) -> tuple[str, list[Row[Any]], pb.Records | None]:
        """The form in which a client gets a version, the versions that it lacks, and their records."""
        if client.adapter_sha256 == target.adapter_sha256:
            return "unchanged", [], None
        wanted = self._wanted(client.client_id, target.number)
        steps = self._steps(connection, client, target.number)
        records = None
        if wanted in ("record", "auto"):
            records = self._records(connection, client.client_id, steps)
        whole_bytes = target.snapshot_size_bytes or 4 * self.layout.parameters
        delta_bytes = self._delta_bytes(steps)
        if wanted == "auto":
            sizes = {
                "record": records.ByteSize() if records else None,
                "delta": delta_bytes or None,
                "snapshot": whole_bytes,
            }
            wanted = min((size, name) for name, size in sizes.items() if size is not None)[1]
        if (wanted == "record" and records) or (wanted == "delta" and steps):
            return wanted, steps, records
        return "snapshot", steps, records

    @property
    def pieces(self) -> VersionPieces:
        """What leads from version to version."""
        return VersionPieces(self.artifacts, self.layout)

    def _wanted(self, client_id: str, number: int) -> str:
        if self.version_form != "mixed":
            return self.version_form
        return FORMS[(int(client_id[:8], 16) + number) % len(FORMS)]

    def _steps(self, connection: Connection, client: Row[Any], target: int) -> list[Row[Any]]:
        """The versions after the one the client holds, up to the target; none when the client's is not
        ours.
        """
        held = connection.execute(
            sa.select(versions.c.adapter_sha256).where(versions.c.number == client.adapter_version)
        ).scalar()
        if not client.adapter_sha256 or held != client.adapter_sha256 or client.adapter_version >= target:
            return []
        after = sa.and_(versions.c.number > client.adapter_version, versions.c.number <= target)
        return list(connection.execute(sa.select(versions).where(after).order_by(versions.c.number)).all())

    def _records(self, connection: Connection, client_id: str, steps: list[Row[Any]]) -> pb.Records | None:
        """The records of these steps, with the guides that the client lacks; None where one is no list, a
        guide is not to be had, or all of it is too much for an answer.
        """
        if not steps or any(row.record is None for row in steps):
            return None
        found = pb.Records(record=[pb.Record.FromString(row.record) for row in steps])
        named = {term.guide_sha256.hex() for record in found.record for term in _terms(record)}
        missing = named - _held_guides(connection, client_id)
        # A version's record comes of the round about the version before.
        rounds = [row.number - 1 for row in steps]
        guides = named_guides(connection, self.artifacts, missing, rounds)
        if guides is None:
            return None
        found.guides.extend(guides)
        return found if found.ByteSize() <= MOST_BYTES else None

    def _delta_bytes(self, steps: list[Row[Any]]) -> int:
        """About what a delta over these steps takes, before anybody has coded it: k steps of one size in one
        direction add log2 k bits to each difference, and all of them by themselves are an upper bound.
        """
        sizes = [int(row.delta_size_bytes) for row in steps] or [0]
        together = max(sizes) + self.layout.parameters * math.log2(len(sizes)) / 8
        return min(sum(sizes), math.ceil(together))

    def _delta(self, connection: Connection, client: Row[Any], steps: list[Row[Any]]) -> pb.Artifact:
        if len(steps) == 1:
            name, size_bytes = steps[0].delta_sha256, steps[0].delta_size_bytes
        else:
            start, number = client.adapter_version, steps[-1].number
            name, size_bytes = self.pieces.in_one(connection, start, number, self._rebuilt(connection))
        return pb.Artifact(sha256=bytes.fromhex(name), size_bytes=size_bytes)

    def _snapshot(self, connection: Connection, target: Row[Any]) -> pb.Artifact:
        name, size_bytes = target.snapshot_sha256, target.snapshot_size_bytes
        if not name:
            data = snapshot(rebuild(connection, self.artifacts, self.layout, target.number), self.layout)
            name, size_bytes = self.artifacts.put(data), len(data)
            connection.execute(
                sa.update(versions)
                .where(versions.c.number == target.number)
                .values(snapshot_sha256=name, snapshot_size_bytes=size_bytes)
            )
        return pb.Artifact(sha256=bytes.fromhex(name), size_bytes=size_bytes)


def _terms(record: pb.Record) -> list[pb.GuideTerm]:
    return [*record.guides, *(term for item in record.directions for term in item.guides)]


def _held_guides(connection: Connection, client_id: str) -> set[str]:
    """Guides that a client certainly has: a device keeps those of the last task it did."""
    return {of_last_task(connection, client_id, tasks.c.guide) or ""} - {""}
