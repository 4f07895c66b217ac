"""What a round is opened with and what it is closed with, read from the store as the values that `rounds`
takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from cloud_service.chain import ChainSettings, ChainState, Stage, begin, stage_of, wanted_scores
from cloud_service.job import Job
from cloud_service.leases import MEASURING
from cloud_service.plan import ClientReport, CohortMember, RoundSettings, RoundState
from cloud_service.rounds import directions_within
from cloud_service.split import Split, SplitSettings, decide
from cloud_service.store import clients, metrics, reports, tasks
from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb

# Reports whose times decide a split: a few rounds' worth, so that it follows the devices that take part.
MOST_TIMINGS = 64


def settings_of(job: Job, active_segments: Sequence[int], scale_sha256: str) -> RoundSettings:
    """The part of a job that decides a round."""
    return RoundSettings(
        estimator=job.estimator,
        directions=job.directions,
        directions_per_task=job.directions_per_task,
        batch_examples=job.batch_examples,
        epsilon=job.epsilon,
        learning_rate=job.learning_rate,
        learning_rate_decay=job.learning_rate_decay,
        rounds=job.rounds,
        momentum=job.momentum,
        guide_weight=job.guide_weight,
        isotropic_fraction=job.isotropic_fraction,
        paper_form=job.paper_form,
        exact_head=job.exact_head,
        active_segments=tuple(active_segments),
        scale_sha256=bytes.fromhex(scale_sha256),
        local_steps=job.local_steps,
        local_learning_rate=job.local_learning_rate,
        seed=job.seed,
        scalar_clip=job.scalar_clip,
        scalar_noise_std=job.scalar_noise_std,
        in_turn=not job.pipelined,
    )


def split_now(connection: Connection, settings: SplitSettings | None) -> Split | None:
    """How the next round cuts the chain, by the newest reports that are in; None where it does not.

    A closed round takes no report any more, so whoever asks again between two rounds gets the same answer.
    """
    if settings is None:
        return None
    if not settings.is_open:
        return decide(settings)
    query = (
        sa.select(reports.c.body)
        .join(tasks, tasks.c.task_id == reports.c.task_id)
        .where(tasks.c.kind == "directions", reports.c.status == pb.REPORT_STATUS_OK)
        .order_by(reports.c.round.desc(), reports.c.client_id)
        .limit(MOST_TIMINGS)
    )
    bodies = connection.execute(query).scalars()
    return decide(settings, [pb.Report.FromString(body).timing.segment_ms for body in bodies])


def keep_decided(connection: Connection, round_number: int, facts: Mapping[str, dict[str, Any]]) -> None:
    """Writes down what was decided for a round."""
    for name, values in facts.items():
        connection.execute(
            sa.insert(metrics).values(round=round_number, client_id="", name=name, value=json.dumps(values))
        )


def divided(settings: RoundSettings, split: Split | None) -> RoundSettings:
    """The settings of a round whose chain is cut so."""
    if split is None:
        return settings
    return replace(settings, boundary=split.boundary, per_prefix=split.per_prefix)


def staged(settings: RoundSettings, chain: ChainSettings | None, state: RoundState) -> RoundSettings:
    """The settings of the round about `state`, narrowed to the stage that ChainFed's schedule is in."""
    if chain is None:
        return settings
    found = stage_at(chain, state)
    if found is None:
        return replace(settings, chain=chain)
    now, stage = found
    return replace(
        settings,
        chain=chain,
        active_segments=tuple(k for k in settings.active_segments if stage.trains(k)),
        exit_segment=stage.exit_segment,
        global_weight=stage.global_weight,
        first_round=now.first_round,
        rounds=now.rounds,
    )


def stage_at(chain: ChainSettings, state: RoundState) -> tuple[ChainState, Stage] | None:
    """Where the schedule stands in the round about `state`, and its stage; None where it asks for scores."""
    if wanted_scores(chain, state.version):
        return None
    now = state.chain or begin(chain, state.version)
    return now, stage_of(chain, now)


def decided(split: Split | None, chain: ChainSettings | None, state: RoundState) -> dict[str, dict[str, Any]]:
    """What was decided for a round, by name, for operators."""
    facts = {} if split is None else {"split": asdict(split)}
    found = None if chain is None else stage_at(chain, state)
    return facts if found is None else facts | {"stage": _stage_facts(*found)}


def _stage_facts(now: ChainState, stage: Stage) -> dict[str, Any]:
    return {
        "stage": stage.number,
        "stages": stage.count,
        "start": now.start,
        "segments": list(stage.segments),
        "exit_segment": stage.exit_segment,
        "global_weight": stage.global_weight,
        "first_round": now.first_round,
        "rounds": now.rounds,
        "segment_scores": list(now.scores),
    }


def member(row: Row[Any], guide_level: int = 0) -> CohortMember:
    """A client's row as a candidate for a cohort."""
    return CohortMember(
        row.client_id,
        row.train_examples,
        row.max_scalars,
        row.max_head_scalars,
        row.min_batch_examples,
        guide_level,
    )


def may_join(
    job: Job, layout: Layout, active_segments: Sequence[int], candidate: CohortMember, scores: int = 0
) -> bool:
    """Whether what the client discloses and holds allows a task of this job; one of so many segment scores
    where that is above 0.
    """
    enough = candidate.train_examples >= candidate.min_batch_examples
    if scores:
        return enough and candidate.max_scalars_per_round >= scores
    return enough and directions_within(candidate, settings_of(job, active_segments, ""), layout) > 0


def candidates(
    connection: Connection, job: Job, layout: Layout, active_segments: Sequence[int], scores: int = 0
) -> list[CohortMember]:
    """Clients that a round may count on, by id: checked in, no lapsed lease since, able to do the job's
    tasks.
    """
    seen = sa.select(clients).where(clients.c.checked_in, ~clients.c.missed).order_by(clients.c.client_id)
    found = [member(row) for row in connection.execute(seen).all()]
    return [item for item in found if may_join(job, layout, active_segments, item, scores)]


def reports_of(connection: Connection, round_number: int) -> tuple[list[ClientReport], str]:
    """A round's accepted measurements, by client id, and what the last refusal said."""
    query = (
        sa.select(reports)
        .join(tasks, tasks.c.task_id == reports.c.task_id)
        .where(reports.c.round == round_number, tasks.c.kind.in_(MEASURING))
        .order_by(reports.c.client_id)
    )
    found: list[ClientReport] = []
    refusal = ""
    for row in connection.execute(query).all():
        body = pb.Report.FromString(row.body)
        if body.status == pb.REPORT_STATUS_OK:
            scalars, scores = tuple(body.scalars), tuple(body.segment_scores)
            found.append(ClientReport(row.client_id, scalars, body.examples, scores))
        else:
            refusal = f"{pb.ReportStatus.Name(body.status)} {body.detail}"
    return found, refusal
