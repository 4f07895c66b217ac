"""What is computed from public data, and written down before a round may use it: version 0, scale, guides,
scores.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import sqlalchemy as sa
from safetensors.numpy import load, save

from cloud_service.artifacts import Artifacts
from cloud_service.compression import AS_SAMPLED
from cloud_service.directions import Float32, Float64, Guides
from cloud_service.job import Job
from cloud_service.metrics import Metrics
from cloud_service.plan import RoundState
from cloud_service.shelf import Shelf
from cloud_service.store import Store, jobs, metrics, one, versions
from cloud_service.versions import version_row
from device_runtime.zo.layout import Layout
from device_runtime.zo.version import adapter_sha256


class PublicSide(Protocol):
    """What the cloud does with its public data. Deterministic: the same arguments give the same bits."""

    def start(self, adapter: Float32) -> Float32:
        """Version 0, made of the bundle's adapter (n,); on the grid."""

    def scale(self, adapter: Float32) -> Float32 | None:
        """Positive factors (n,) of the noise at version 0, or None."""

    def sampled(self, state: RoundState) -> Iterator[tuple[int, Float64]]:
        """S^2 times the gradient of the public loss at a version, as (segment, its values), ascending and
        each as soon as it is known; nothing where the job has no use for it.
        """

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

    def sampled(self, state: RoundState) -> Iterator[tuple[int, Float64]]:
        return iter(())

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
    shelf: Shelf

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

    def announce_guides(self, round_number: int, state: RoundState) -> bool:
        """Names a round's guide before it is sampled from `state`: it is made as long as the guide of the
        round before turned out to be in the same unit. False where there is none to go by.
        """
        before = self.shelf.guides(round_number - 1)
        if before is None or not before.base or not self.shelf.is_sampled(round_number - 1):
            return False
        ((_, values),) = self.shelf.received(round_number - 1, [AS_SAMPLED]).items()
        length = _length([values.astype(np.float64)])
        if length == 0.0:
            return False
        norm = before.norm * length / self._wanted_length(before.segments)
        self._announce(round_number, state, before.segments, norm)
        return True

    def sample_guides(self, round_number: int, state: RoundState) -> None:
        """Samples a round's guide from `state` and puts it on the shelf, segment by segment where it was
        announced; otherwise its length has to be known first.
        """
        if self.shelf.is_sampled(round_number):
            return
        started_s, started_ms = time.monotonic(), _now_ms()
        arriving = self.public.sampled(state)
        announced = self.shelf.guides(round_number)
        if announced is None:
            whole = dict(arriving)
            length = _length(whole.values())
            if length == 0.0:
                self.shelf.announce(round_number, Guides())
                return
            segments = tuple(whole)
            norm = length / self._wanted_length(segments)
            announced = self._announce(round_number, state, segments, norm)
            arriving = iter(whole.items())
        for segment, values in arriving:
            self.shelf.put(round_number, segment, (values / announced.norm).astype(np.float32), started_ms)
            started_ms = _now_ms()
        self.metrics.guides_s.set(time.monotonic() - started_s)
        if self.job.guide_level is None:
            self.shelf.weigh_levels(round_number)

    def _announce(
        self, round_number: int, state: RoundState, segments: tuple[int, ...], norm: float
    ) -> Guides:
        """`norm` makes what is sampled a guide: S^2 grad = norm * u."""
        told = [json.dumps(self.job.to_json_object(), sort_keys=True), self.scale_sha256(), str(round_number)]
        base = hashlib.sha256("\n".join(told).encode() + adapter_sha256(state.adapter)).digest()
        announced = Guides(base, segments, self._wanted_length(segments), norm)
        self.shelf.announce(round_number, announced)
        return announced

    def _wanted_length(self, segments: tuple[int, ...]) -> float:
        """That of the scale on these segments."""
        scale = self.scale()
        spans = [self.layout.segment_slice(segment) for segment in segments]
        if scale is None:
            return float(np.sqrt(sum(span.stop - span.start for span in spans)))
        return _length(scale[span].astype(np.float64) for span in spans)

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


def _length(parts: Iterable[Float64]) -> float:
    return float(np.sqrt(sum(float(np.sum(part * part)) for part in parts)))


def _now_ms() -> int:
    return int(time.time() * 1000)
