"""Drives a job: opens rounds, waits for reports, closes rounds, until the last version stands.

Every decision is read from the database and every result is written there before anybody sees it, so the
conductor may be killed at any moment: its successor repeats what was not committed and gets the same bits,
because `rounds` is pure and the public side deterministic. Round r is about version r. Its guide is sampled
from version r-1 while round r-1 is out, or, with a staleness of 0, from version r while devices already
stream it (that of round 0 before it opens).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from cloud_service import leases, opening, rounds
from cloud_service.chain import wanted_scores
from cloud_service.directions import Float32
from cloud_service.federation import Federation
from cloud_service.head_share import counts_as_head
from cloud_service.plan import RoundPlan, RoundState
from cloud_service.preparation import Preparation
from cloud_service.round_guides import RoundGuides
from cloud_service.store import jobs, latest_version, one, unfinished_round, version_pieces, versions
from cloud_service.store import metrics as metric_rows
from cloud_service.store import rounds as round_rows
from cloud_service.versions import prune, version_row

_LOG = logging.getLogger("cooperllm.serve")

# A longer pause between two ticks is downtime of the cloud (a stopped or sleeping machine): it costs no
# lease.
LONGEST_TICK_MS = 5_000


class Conductor:
    """The one who moves a job on; one thread calls `step`."""

    def __init__(
        self,
        federation: Federation,
        preparation: Preparation,
        bundle_adapter: Float32,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.federation = federation
        self.preparation = preparation
        self.store, self.artifacts = federation.store, federation.artifacts
        self.job, self.layout = federation.job, federation.layout
        self.guides = RoundGuides(preparation, federation.shelf)
        self._bundle_adapter = bundle_adapter
        self._clock_s = clock_s
        self._ticked_s = clock_s()
        self._tick_ms = max(20, min(1_000, int(self.job.lease_s * 100)))
        self._workers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="guides")
        self._work: tuple[int, Future[None]] | None = None
        self.wake = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Goes on until `stop` is set. Raises StoreError and what the public side raises: end the service."""
        try:
            while not stop.is_set():
                self.wake.clear()
                if not self.step():
                    self.wake.wait(self._tick_ms / 1000)
        finally:
            self._workers.shutdown(wait=True, cancel_futures=True)

    def step(self) -> bool:
        """Makes at most one transition; answers whether the next one may be due at once."""
        with self.store.transaction() as connection:
            job, newest, out = one(connection, jobs), latest_version(connection), unfinished_round(connection)
        assert job is not None  # written by serve before anything starts
        if newest is None:
            self.preparation.begin(self._bundle_adapter)
            return True
        if job.status != "running":
            return False
        if out is None:
            return self._open(newest)
        self._start_work(newest)
        if out.status == "open":
            self._tick(out.number)
            if not self._work_is_done() or not self._end_waiting(out.number):
                return False
        elif not self._work_is_done():
            return False
        self._close(out, newest)
        return True

    def _state(self, row: Row[Any]) -> RoundState:
        return RoundState.from_bytes(self.artifacts.get(row.state_sha256))

    # --- time ----------------------------------------------------------------------------------------------

    def _tick(self, round_number: int) -> None:
        elapsed_ms = int((self._clock_s() - self._ticked_s) * 1000)
        if elapsed_ms < self._tick_ms:
            return
        self._ticked_s += elapsed_ms / 1000
        with self.store.transaction() as connection:
            lapsed = leases.tick(connection, round_number, min(elapsed_ms, LONGEST_TICK_MS))
        self.federation.metrics.expired.inc(lapsed)

    # --- what is computed while a round is out -------------------------------------------------------------

    def _start_work(self, newest: Row[Any]) -> None:
        if self._work is None or self._work[0] != newest.number:
            self._work = (newest.number, self._workers.submit(self._compute, self._state(newest)))
            self._work[1].add_done_callback(lambda _: self.wake.set())

    def _compute(self, state: RoundState) -> None:
        number = state.version + self.job.guide_staleness
        if number < self.job.rounds:
            self.preparation.sample_guides(number, state)
        if self._evaluates(state.version):
            self.preparation.evaluate(state)

    def _work_is_done(self) -> bool:
        if self._work is None or not self._work[1].done():
            return False
        self._work[1].result()
        return True

    def _evaluates(self, version: int) -> bool:
        every = self.job.evaluate_every_rounds
        return version == self.job.rounds or (every > 0 and version % every == 0)

    # --- opening -------------------------------------------------------------------------------------------

    def _open(self, newest: Row[Any]) -> bool:
        number = newest.number
        with self.store.transaction() as connection:
            known = opening.candidates(
                connection,
                self.job,
                self.layout,
                self.federation.active_segments,
                wanted_scores(self.federation.schedule, number),
            )
            over = one(connection, round_rows, round_rows.c.number == number) is not None
            if over:
                connection.execute(sa.update(jobs).values(status="finished"))
        wanted = self.job.wanted_clients if number == 0 else self.job.min_reports
        last = number == self.job.rounds
        if over or (len(known) < wanted and not last):
            return False
        everybody = [item.client_id for item in known]
        if last:
            self._commit_opening(number, None, tuple(everybody), {})
            return True
        cohort = rounds.sample_cohort(everybody, self.job.cohort_size, self.job.seed, number)
        state = self._state(newest)
        found, sampled = self.guides.of_round(number, state)
        with self.store.transaction() as connection:
            split = opening.split_now(connection, self.federation.split)
        whole = opening.settings_of(
            self.job, self.federation.active_segments, self.preparation.scale_sha256()
        )
        settings = opening.staged(opening.divided(whole, split), self.federation.schedule, state)
        of_head = counts_as_head(settings, found, sampled, self.preparation.scale(), self.layout)
        settings = replace(settings, counts_as_head=of_head)
        chosen = self.guides.levelled(number, [item for item in known if item.client_id in cohort])
        plan = rounds.open_round(state, settings, chosen, found, self.layout)
        facts = opening.decided(split, self.federation.schedule, state) | self.guides.facts(number, plan)
        self._commit_opening(number, plan, cohort, facts)
        return True

    def _commit_opening(
        self,
        number: int,
        plan: RoundPlan | None,
        cohort: tuple[str, ...],
        facts: Mapping[str, dict[str, Any]],
    ) -> None:
        times = self.federation.times
        name = "" if plan is None else self.artifacts.put(plan.to_bytes())
        with self.store.transaction() as connection:
            connection.execute(
                sa.insert(round_rows).values(
                    number=number, status="open", plan_sha256=name, opened_ms=self.federation.clock_ms()
                )
            )
            if plan is not None:
                kind = "score_segments" if plan.scores else "directions"
                leases.offer(connection, number, kind, cohort, times)
                leases.name_guides(connection, plan)
            if self._evaluates(number):
                leases.offer(connection, number, "evaluate", cohort, times)
            opening.keep_decided(connection, number, facts)
        self._ticked_s = self._clock_s()
        self.federation.metrics.round.set(number)
        if "stage" in facts:
            self.federation.metrics.stage.set(facts["stage"]["stage"])

    # --- closing -------------------------------------------------------------------------------------------

    def _end_waiting(self, number: int) -> bool:
        """Whether nothing more is awaited; from this transaction on no report of the round is accepted."""
        with self.store.transaction() as connection:
            if not leases.is_complete(connection, number, self.job.min_reports, self.federation.times):
                return False
            leases.close(connection, number)
            connection.execute(
                sa.update(round_rows).where(round_rows.c.number == number).values(status="closing")
            )
        return True

    def _close(self, out: Row[Any], newest: Row[Any]) -> None:
        if not out.plan_sha256:
            self._commit_closing(out, {}, None)
            return
        with self.store.transaction() as connection:
            found, refusals = opening.reports_of(connection, out.number)
        if not found:
            self._fail(out, f"round {out.number}: no device could do its task: {refusals}")
            return
        before = self._state(newest)
        plan = RoundPlan.from_bytes(self.artifacts.get(out.plan_sha256))
        received = self.guides.received(plan)
        self.guides.keep_alignment(out.number, plan, received)
        scale = self.preparation.scale()
        after, record, diagnostics = rounds.apply(before, plan, found, received, self.layout, scale)
        if after.version == before.version:
            self._fail(out, f"round {out.number}: no report was usable: lower the learning rate or epsilon")
            return
        whole = after.version % self.job.snapshot_every_rounds == 0 or after.version == self.job.rounds
        row = version_row(self.artifacts, self.layout, before, after, record, whole)
        # Devices that were sent guides get the next version with the next ones, where it is no record.
        follows = record is None and plan.levels()
        pieces = (
            self.federation.chain.pieces.coded(before.version, after.version, before.adapter, after.adapter)
            if follows
            else []
        )
        self._commit_closing(out, asdict(diagnostics), row, pieces)
        with self.store.transaction() as connection:
            prune(connection, self.artifacts, after.version)
        self.federation.shelf.forget_before(out.number)

    def _commit_closing(
        self,
        out: Row[Any],
        diagnostics: dict[str, Any],
        version: dict[str, Any] | None,
        pieces: Sequence[dict[str, Any]] = (),
    ) -> None:
        traffic = self.federation.metrics.take_traffic()
        with self.store.transaction() as connection:
            connection.execute(
                sa.update(round_rows)
                .where(round_rows.c.number == out.number)
                .values(
                    status="closed", diagnostics=json.dumps(diagnostics), closed_ms=self.federation.clock_ms()
                )
            )
            connection.execute(
                sa.insert(metric_rows).values(
                    round=out.number, client_id="", name="traffic", value=json.dumps(traffic)
                )
            )
            if version is not None:
                connection.execute(sa.insert(versions).values(**version))
            if pieces:
                connection.execute(sa.insert(version_pieces), list(pieces))
        if version is not None:
            self.federation.metrics.version.set(version["number"])

    def _fail(self, out: Row[Any], detail: str) -> None:
        with self.store.transaction() as connection:
            connection.execute(
                sa.update(round_rows)
                .where(round_rows.c.number == out.number)
                .values(status="closed", closed_ms=self.federation.clock_ms())
            )
            connection.execute(sa.update(jobs).values(status="failed", detail=detail))
        _LOG.error("the job has failed: %s", detail)
