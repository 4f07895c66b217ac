"""What is computed from public data, and written down before a round may use it: version 0, scale, guides,
scores.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import sqlalchemy as sa
from safetensors.numpy import load, save

from cloud_service.artifacts import Artifacts
from cloud_service.directions import Float32, Guide, Guides
from cloud_service.job import Job
from cloud_service.messages import guide_bytes
from cloud_service.metrics import Metrics
from cloud_service.plan import RoundState
from cloud_service.store import Store, guides, jobs, metrics, one, prepared, versions
from cloud_service.versions import version_row
from device_runtime.errors import StoreError
from device_runtime.zo.layout import Layout


class PublicSide(Protocol):
    """What the cloud does with its public data. Deterministic: the same arguments give the same bits."""

    def start(self, adapter: Float32) -> Float32:
        """Version 0, made of the bundle's adapter (n,); on the grid."""

    def scale(self, adapter: Float32) -> Float32 | None:
        """Positive factors (n,) of the noise at version 0, or None."""

    def guides(self, state: RoundState) -> Guides:
        """What public data say about a version."""

    def evaluate(self, adapter: Float32) -> tuple[float, int, int] | None:
        """Mean loss (nats), correct answers and count on the job's evaluation file; None when it names
        none.
        """


class NoPublicSide:
    """For a job without public data: the bundle's adapter as it is, plain noise, no guides, no scores."""

    def start(self, adapter: Float32) -> Float32:
        return adapter

    def scale(self, adapter: Float32) -> Float32 | None:
        return None

    def guides(self, state: RoundState) -> Guides:
        return Guides()

    def evaluate(self, adapter: Float32) -> tuple[float, int, int] | None:
        return None


@dataclass(frozen=True)
class Preparation:
    """Computes with the public side and commits the result. Each method does nothing when it was done
    before.
    """

    store: Store
    artifacts: Artifacts
    job: Job
    layout: Layout
    public: PublicSide
    metrics: Metrics

    def begin(self, bundle_adapter: Float32) -> None:
        """Makes version 0 and the scale, and starts the job."""
        adapter = np.asarray(self.public.start(bundle_adapter), dtype=np.float32)
        self.layout.check(adapter)
        scale = self.public.scale(adapter)
        name = (
            "" if scale is None else self.artifacts.put(save({"scale": np.asarray(scale, dtype=np.float32)}))
        )
        row = version_row(self.artifacts, self.layout, None, RoundState(0, adapter), None, keep_whole=True)
        with self.store.transaction() as connection:
            connection.execute(sa.insert(versions).values(**row))
            connection.execute(sa.update(jobs).values(scale_sha256=name, status="running"))

    def scale_sha256(self) -> str:
        """The artifact that holds the job's scale, in hex; empty when it has none."""
        with self.store.transaction() as connection:
            return str(connection.execute(sa.select(jobs.c.scale_sha256)).scalar_one())

    def scale(self) -> Float32 | None:
        """The job's scale as the devices get it."""
        name = self.scale_sha256()
        return load(self.artifacts.get(name))["scale"] if name else None

    def prepare_guides(self, round_number: int, state: RoundState) -> None:
        """Computes a round's guides from `state` and puts them on disk."""
        with self.store.transaction() as connection:
            if one(connection, prepared, prepared.c.round == round_number) is not None:
                return
        started_s = time.monotonic()
        found = self.public.guides(state)
        self.metrics.guides_s.set(time.monotonic() - started_s)
        rows = []
        if found.gradient is not None:
            data = guide_bytes(found.gradient, self.layout)
            name = self.artifacts.put(data)
            if name != found.gradient.sha256.hex():
                raise StoreError(
                    f"guide of round {round_number} does not have the hash that it names: report this"
                )
            rows.append(
                {
                    "round": round_number,
                    "position": 0,
                    "sha256": name,
                    "size_bytes": len(data),
                    "segments": json.dumps(list(found.gradient.segments)),
                }
            )
        with self.store.transaction() as connection:
            facts = json.dumps({"norm": found.norm})
            connection.execute(sa.insert(prepared).values(round=round_number, facts=facts))
            if rows:
                connection.execute(sa.insert(guides), rows)

    def guides(self, round_number: int) -> Guides | None:
        """A round's guides from disk; None when they are not prepared yet."""
        with self.store.transaction() as connection:
            row = one(connection, prepared, prepared.c.round == round_number)
            named = one(connection, guides, guides.c.round == round_number)
        if row is None:
            return None
        norm = float(json.loads(row.facts)["norm"])
        if named is None:
            return Guides(None, norm)
        segments = tuple(json.loads(named.segments))
        received = np.frombuffer(self.artifacts.get(named.sha256), dtype="<f4")
        values = np.zeros(self.layout.parameters, dtype=np.float32)
        offset = 0
        for segment in segments:
            span = self.layout.segment_slice(segment)
            values[span] = received[offset : offset + span.stop - span.start]
            offset += span.stop - span.start
        return Guides(Guide(bytes.fromhex(named.sha256), segments, values), norm)

    def evaluate(self, state: RoundState) -> None:
        """Scores a version on the job's evaluation file."""
        scored = sa.and_(metrics.c.round == state.version, metrics.c.name == "evaluation")
        with self.store.transaction() as connection:
            if one(connection, metrics, scored) is not None:
                return
        result = self.public.evaluate(state.adapter)
        if result is None:
            return
        loss, correct, count = result
        with self.store.transaction() as connection:
            connection.execute(
                sa.insert(metrics).values(
                    round=state.version,
                    name="evaluation",
                    client_id="",
                    value=json.dumps({"loss": loss, "correct": correct, "count": count}),
                )
            )
