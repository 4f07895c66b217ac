"""Between the plan of a round and what travels: tasks and records."""

from __future__ import annotations

from collections.abc import Iterable

from cloud_service.directions import Direction, GuideTerm, Record
from cloud_service.plan import ClientTask, RoundPlan
from protos import federation_pb2 as pb


def guide_terms(terms: Iterable[GuideTerm]) -> list[pb.GuideTerm]:
    """Guide terms as messages."""
    return [pb.GuideTerm(guide_sha256=term.guide_sha256, coefficient=term.coefficient) for term in terms]


def directions(items: Iterable[Direction], measured: bool = False) -> list[pb.Direction]:
    """Directions as messages, of a record or of a task, which says how they are `measured`."""
    return [
        pb.Direction(
            seed=item.seed,
            count=item.count,
            isotropic_scale=item.isotropic_scale,
            guides=guide_terms(item.guides),
            boundary=item.boundary,
            prefix_seed=item.prefix_seed if item.boundary else 0,
            per_prefix=item.per_prefix if item.boundary else 0,
            exact=item.exact and measured,
        )
        for item in items
    ]


def record_message(record: Record) -> pb.Record:
    """A version's record as it is stored and sent."""
    return pb.Record(
        epsilon=record.epsilon,
        scale_sha256=record.scale_sha256,
        update_seed=record.update_seed,
        active_segments=record.active_segments,
        directions=directions(record.directions),
        coefficients=record.coefficients,
        guides=guide_terms(record.guides),
    )


def directions_task(plan: RoundPlan, task: ClientTask, scale_size_bytes: int) -> pb.DirectionsTask:
    """What one client is asked to measure."""
    settings, guide = plan.settings, plan.guide_of(task)
    guides = []
    if guide is not None:
        guides = [pb.Guide(sha256=guide.name, segments=guide.segments)]
    steps = [
        pb.Step(
            batch_seed=step.batch_seed,
            batch_examples=step.batch_examples,
            directions=directions(step.directions, measured=True),
            local_learning_rate=step.local_learning_rate,
            update_seed=step.update_seed,
        )
        for step in task.steps
    ]
    form = pb.ScalarForm(clip=settings.scalar_clip, noise_std=settings.scalar_noise_std)
    return pb.DirectionsTask(
        epsilon=settings.epsilon,
        scale_sha256=settings.scale_sha256,
        scale_size_bytes=scale_size_bytes,
        active_segments=settings.active_segments,
        guides=guides,
        steps=steps,
        scalar_form=form,
        exit_segment=settings.exit_segment,
        global_weight=settings.global_weight,
        in_turn=settings.in_turn,
    )


def score_segments_task(task: ClientTask) -> pb.ScoreSegmentsTask:
    """Which batch one client is asked to score its segments on."""
    (step,) = task.steps
    return pb.ScoreSegmentsTask(batch_seed=step.batch_seed, batch_examples=step.batch_examples)
