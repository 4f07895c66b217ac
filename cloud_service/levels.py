"""At which level of compression a device receives a round's guide: what `compression.choose` is asked, read
from the store.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from cloud_service import compression
from cloud_service.job import Job
from cloud_service.shelf import Shelf
from cloud_service.store import clients, guide_segments, of_last_task, reports
from cloud_service.version_pieces import between
from protos import federation_pb2 as pb

RECENT_ROUNDS = 64


def level_of(connection: Connection, shelf: Shelf, job: Job, round_number: int, client_id: str) -> int:
    """The level of one client's guide in a round that opens, or that it joins.

    What levels make of a guide is known of the round's own where it is sampled already, else of the one
    before. A job may fix the level. Clients that measure shared directions need one level: see `same_for`.
    """
    announced = shelf.guides(round_number)
    if announced is None or not announced.base:
        return compression.AS_SAMPLED
    if job.guide_level is not None:
        return job.guide_level
    facts = shelf.facts(round_number) or shelf.facts(round_number - 1)
    counts = shelf.counts(announced.segments)
    sampling_s = [0.0] * len(counts)
    if not shelf.is_sampled(round_number):
        sampling_s = _sampling_s(connection, round_number - 1, announced.segments)
    client = connection.execute(sa.select(clients).where(clients.c.client_id == client_id)).one()
    return compression.choose(
        facts or compression.expected(counts),
        sampling_s,
        _compute_s(connection, round_number, client_id, announced.segments),
        float(client.download_bytes_per_s),
        job.guide_cosine,
        _version_bytes(connection, client, round_number, announced.segments),
    )


def keep_rate(connection: Connection, client_id: str, measured: float) -> None:
    """A report's measurement of the link comes in time for the next round, a check-in's would not."""
    where = clients.c.client_id == client_id
    before = connection.execute(sa.select(clients.c.download_bytes_per_s).where(where)).scalar_one()
    rate = compression.rate_after(before, measured)
    if rate != before:
        connection.execute(sa.update(clients).where(where).values(download_bytes_per_s=rate))


def same_for(levels: dict[str, int]) -> dict[str, int]:
    """One level for all: the coarsest of what each would get."""
    return dict.fromkeys(levels, max(levels.values(), default=compression.AS_SAMPLED))


def _sampling_s(connection: Connection, round_number: int, segments: tuple[int, ...]) -> list[float]:
    """How long the sampling of each segment took in a round; 0 where nothing is known."""
    query = sa.select(guide_segments).where(
        guide_segments.c.round == round_number, guide_segments.c.level == compression.AS_SAMPLED
    )
    took_ms = {row.segment: row.end_ms - row.start_ms for row in connection.execute(query).all()}
    return [max(0, took_ms.get(segment, 0)) / 1000 for segment in segments]


def _version_bytes(
    connection: Connection, client: Row[Any], round_number: int, segments: tuple[int, ...]
) -> list[int]:
    """What a client's next version, if it comes with the guides, adds to each segment of these."""
    if not (client.streams_versions and client.adapter_sha256):
        return []
    rows = between(connection, client.adapter_version, round_number)
    found = {row.segment: row.size_bytes for row in rows}
    return [found.get(segment, 0) for segment in segments]


def _compute_s(
    connection: Connection, round_number: int, client_id: str, segments: tuple[int, ...]
) -> list[float]:
    """How long a client worked on each segment in its last task, by its report; 0 where nothing is known."""
    since = round_number - RECENT_ROUNDS  # not a search through all of a long job
    body = of_last_task(connection, client_id, reports.c.body, since)
    timing = pb.Timing() if body is None else pb.Report.FromString(body).timing
    run_ms = list(timing.segment_ms)
    # Of a chain whose segments all learn, each ran equally often.
    runs = timing.segment_runs / len(run_ms) if run_ms else 0.0
    return [runs * run_ms[segment] / 1000 if segment < len(run_ms) else 0.0 for segment in segments]
