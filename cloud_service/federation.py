"""What the service does when a device calls, whatever the call came over.

Who calls was checked before. Each call is one transaction that is committed before its answer leaves.
WireError says what to answer instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from cloud_service import acceptance, guide_stream, leases, messages, parts, rounds, wire
from cloud_service.artifacts import Artifacts
from cloud_service.chain import ChainSettings
from cloud_service.compression import rate_after
from cloud_service.deliveries import Deliveries
from cloud_service.job import Job
from cloud_service.levels import keep_rate, level_of
from cloud_service.metrics import Metrics
from cloud_service.opening import may_join, member
from cloud_service.plan import RoundPlan
from cloud_service.shelf import Shelf
from cloud_service.split import SplitSettings
from cloud_service.store import Store, clients, jobs, latest_version, one, open_round, reports, tasks
from cloud_service.store import rounds as round_rows
from cloud_service.version_pieces import streamable
from cloud_service.versions import Chain
from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb

# How exactly `last_seen_ms` is kept: a client that only waits costs no write more often than this.
SEEN_EVERY_MS = 10_000


def now_ms() -> int:
    """The cloud's clock, milliseconds since 1970."""
    return int(time.time() * 1000)


@dataclass(frozen=True)
class Federation:
    """One job's service for devices. `wake` is called when something happened that the conductor waits
    for.
    """

    store: Store
    artifacts: Artifacts
    job: Job
    layout: Layout
    bundle_sha256: str
    active_segments: tuple[int, ...]
    metrics: Metrics
    shelf: Shelf
    enrollment_token: str = ""
    artifacts_url: str = ""
    wake: Callable[[], None] = lambda: None
    clock_ms: Callable[[], int] = now_ms
    schedule: ChainSettings | None = None  # of a ChainFed job
    split: SplitSettings | None = None  # of a FedSPZO job
    deliveries: Deliveries = field(default_factory=Deliveries)

    @property
    def times(self) -> leases.LeaseTimes:
        return leases.LeaseTimes(int(self.job.lease_s * 1000), int(self.job.refill_wait_s * 1000))

    @property
    def chain(self) -> Chain:
        return Chain(self.artifacts, self.layout, self.job.version_form)

    def enroll(self, request: pb.EnrollRequest) -> pb.EnrollReply:
        """Registers a key; the same key always gets the same client id."""
        client_id = wire.check_enroll(request, self.enrollment_token)
        with self.store.transaction() as connection:
            if one(connection, clients, clients.c.client_id == client_id) is None:
                connection.execute(
                    sa.insert(clients).values(
                        client_id=client_id, public_key=request.public_key, device_name=request.device_name
                    )
                )
        return pb.EnrollReply(
            client_id=client_id, protocol_version=wire.PROTOCOL_VERSION, artifacts_url=self.artifacts_url
        )

    def public_key(self, client_id: str) -> bytes:
        """The key that a client enrolled with."""
        with self.store.transaction() as connection:
            row = one(connection, clients, clients.c.client_id == client_id)
        if row is None:
            raise wire.WireError("UNAUTHENTICATED", "this client is not known here: enroll first")
        return bytes(row.public_key)

    def check_in(self, client_id: str, request: pb.CheckInRequest) -> pb.CheckInReply:
        """Answers with a task, a time to come again, or the last version."""
        wire.check_check_in(request)
        with self.store.transaction() as connection:
            known = connection.execute(sa.select(clients).where(clients.c.client_id == client_id)).one()
            client = self._keep_facts(connection, known, request)
            reply = self._answer(connection, client)
        if not known.checked_in or known.missed:
            self.wake()
        return reply

    def _keep_facts(self, connection: Connection, known: Row[Any], request: pb.CheckInRequest) -> Row[Any]:
        """Writes down what a check-in says, unless it says nothing new: a waiting client asks often."""
        facts = self._facts(known, request)
        news = any(getattr(known, name) != value for name, value in facts.items())
        if not news and self.clock_ms() - known.last_seen_ms < SEEN_EVERY_MS:
            return known
        where = clients.c.client_id == known.client_id
        connection.execute(sa.update(clients).where(where).values(**facts, last_seen_ms=self.clock_ms()))
        return connection.execute(sa.select(clients).where(where)).one()

    def _facts(self, known: Row[Any], request: pb.CheckInRequest) -> dict[str, Any]:
        budget = request.budget
        scalars = budget.max_scalars_per_round
        if not request.bundle_sha256:
            # It cannot know yet what its share of this adapter is; with the bundle it will say 1 % of n.
            scalars = min(scalars, max(1, self.layout.parameters // 100))
        return {
            "checked_in": True,
            "missed": False,
            "adapter_version": request.adapter_version,
            "adapter_sha256": request.adapter_sha256.hex(),
            "max_scalars": scalars,
            "max_head_scalars": budget.max_head_scalars_per_round,
            "min_batch_examples": budget.min_batch_examples,
            "train_examples": request.train_examples,
            "download_bytes_per_s": rate_after(known.download_bytes_per_s, request.download_bytes_per_s),
            "streams_versions": request.streams_versions,
        }

    def _answer(self, connection: Connection, client: Row[Any]) -> pb.CheckInReply:
        job = one(connection, jobs)
        target = latest_version(connection)
        if job is None or target is None:
            return self._retry()
        if job.status == "finished":
            return pb.CheckInReply(finished=pb.Finished(update=self.chain.update(connection, client, target)))
        out = open_round(connection)
        if job.status != "running" or out is None:
            return self._retry()
        lease = leases.take(connection, out.number, client.client_id, self.times)
        plan_sha256 = out.plan_sha256
        if lease is None:
            taken = self._take_over(connection, out, client)
            if taken is None:
                return self._retry()
            lease, plan_sha256 = taken
        task = pb.Task(
            task_id=lease.task_id,
            round=out.number,
            lease_remaining_ms=max(1, lease.remaining_ms),
            bundle_sha256=bytes.fromhex(self.bundle_sha256),
            received_scalars=parts.received(connection, lease.task_id),
        )
        plan = self._plan(plan_sha256) if plan_sha256 else None
        comes_along = self._streamable(plan, client) if lease.kind == "directions" else ()
        task.update.CopyFrom(self.chain.update(connection, client, target, comes_along))
        self._ask(task, lease, plan, job.scale_sha256)
        return pb.CheckInReply(task=task)

    def _streamable(self, plan: RoundPlan | None, client: Row[Any]) -> Collection[int]:
        """In which segments a client's next version may come with the guides of its task."""
        return streamable(plan, client.client_id) if plan is not None and client.streams_versions else ()

    def _ask(self, task: pb.Task, lease: Row[Any], plan: RoundPlan | None, scale_sha256: str) -> None:
        """Fills in what a lease is for. The last round has no plan: its evaluations are end to end."""
        if lease.kind == "evaluate":
            task.evaluate.exit_segment = 0 if plan is None else plan.settings.exit_segment
            task.evaluate.SetInParent()
            return
        asked = None if plan is None else plan.task(lease.holder)
        assert plan is not None  # the plan that names the holder was committed with the lease
        assert asked is not None
        if lease.kind == "score_segments":
            task.score_segments.CopyFrom(messages.score_segments_task(asked))
            return
        size_bytes = self.artifacts.size_bytes(scale_sha256) if scale_sha256 else 0
        task.directions.CopyFrom(messages.directions_task(plan, asked, size_bytes))

    def _take_over(
        self, connection: Connection, out: Row[Any], client: Row[Any]
    ) -> tuple[Row[Any], str] | None:
        """Gives another client's expired task to this one: the plan grows by a member, in this
        transaction.
        """
        expired = leases.takeover(connection, out.number, client.client_id)
        if expired is None:
            return None
        plan = self._plan(out.plan_sha256)
        newcomer = member(client, self._level(connection, plan, client.client_id))
        if not may_join(self.job, self.layout, self.active_segments, newcomer, plan.scores):
            return None
        plan, _ = rounds.refill(plan, newcomer, self.layout)
        name = self.artifacts.put(plan.to_bytes())
        connection.execute(
            sa.update(round_rows).where(round_rows.c.number == out.number).values(plan_sha256=name)
        )
        lease = leases.replace(connection, expired, client.client_id, self.times)
        leases.name_guides(connection, plan)
        return lease, name

    def _level(self, connection: Connection, plan: RoundPlan, client_id: str) -> int:
        """That of the others where all need the same."""
        if plan.settings.directions == "shared" and plan.levels():
            return plan.levels()[-1]
        return level_of(connection, self.shelf, self.job, plan.round, client_id)

    def _plan(self, name: str) -> RoundPlan:
        return RoundPlan.from_bytes(self.artifacts.get(name))

    def _retry(self) -> pb.CheckInReply:
        return pb.CheckInReply(
            retry=pb.RetryWindow(min_ms=self.job.retry_min_ms, max_ms=self.job.retry_max_ms)
        )

    def stream_guides(
        self, client_id: str, request: pb.StreamGuidesRequest
    ) -> Iterator[pb.GuideChunk | None]:
        """The chunks of a task's guides, None for "not ready, ask again"; all checks but that of where it
        starts are made before the first is asked for.
        """
        wire.check_stream_guides(request)
        with self.store.transaction() as connection:
            plan, asked = acceptance.measuring(connection, self.artifacts, client_id, request.task_id)
            version = {}
            if request.version:
                version = self.chain.pieces.named(connection, request.version, plan.version)
        if request.version and not version:
            raise wire.WireError("NOT_FOUND", "nobody is sent this version any more: check in again")
        return guide_stream.chunks(self.shelf, plan, asked, request, version)

    def send_scalars(self, client_id: str, part: pb.Scalars) -> pb.ScalarsAck:
        """Stores scalars ahead of their report, once, however often they are sent."""
        wire.check_scalars(part)
        with self.store.transaction() as connection:
            plan, asked = acceptance.measuring(connection, self.artifacts, client_id, part.task_id)
            wire.check_part(part, asked.scalars, plan.settings.scalar_clip)
            return pb.ScalarsAck(received=parts.add(connection, part))

    def send_report(self, client_id: str, report: pb.Report) -> pb.Ack:
        """Stores a report once, however often it is sent."""
        wire.check_report(report)
        with self.store.transaction() as connection:
            same = sa.and_(reports.c.client_id == client_id, reports.c.report_id == report.report_id)
            if one(connection, reports, same) is not None:
                return pb.Ack(duplicate=True)
            lease = one(connection, tasks, tasks.c.task_id == report.task_id, tasks.c.holder == client_id)
            live = acceptance.live(lease)
            report = parts.whole(connection, report)
            acceptance.check(connection, self.artifacts, live, report)
            accepted = report.status == pb.REPORT_STATUS_OK
            leases.finish(connection, live, report.status == pb.REPORT_STATUS_BAD_ARTIFACT, accepted)
            connection.execute(
                sa.insert(reports).values(
                    client_id=client_id,
                    report_id=report.report_id,
                    task_id=report.task_id,
                    round=live.round,
                    status=report.status,
                    body=report.SerializeToString(),
                    received_ms=self.clock_ms(),
                )
            )
            keep_rate(connection, client_id, report.timing.download_bytes_per_s)
        self.metrics.reports.labels(pb.ReportStatus.Name(report.status)).inc()
        self.wake()
        return pb.Ack()
