"""Between the plan of a round and what travels: tasks, records and the chunks of a guide."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from cloud_service.directions import Direction, Guide, GuideTerm, Record
from cloud_service.plan import ClientTask, RoundPlan
from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb

# What is sent again when a link breaks, and about a fifth of what a stalled stream costs.
CHUNK_BYTES = 64 << 10


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


def plan_guides(plan: RoundPlan) -> tuple[Guide, ...]:
    """All guides that a round sends out."""
    return () if plan.guides.gradient is None else (plan.guides.gradient,)


def directions_task(
    plan: RoundPlan, task: ClientTask, layout: Layout, scale_size_bytes: int
) -> pb.DirectionsTask:
    """What one client is asked to measure."""
    settings = plan.settings
    guides = [
        pb.Guide(sha256=guide.sha256, segments=guide.segments, size_bytes=len(guide_bytes(guide, layout)))
        for guide in task_guides(plan, task)
    ]
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
    )


def score_segments_task(task: ClientTask) -> pb.ScoreSegmentsTask:
    """Which batch one client is asked to score its segments on."""
    (step,) = task.steps
    return pb.ScoreSegmentsTask(batch_seed=step.batch_seed, batch_examples=step.batch_examples)


def task_guides(plan: RoundPlan, task: ClientTask) -> list[Guide]:
    """The guides that a task's directions name, in the plan's order."""
    named = {term.guide_sha256 for step in task.steps for item in step.directions for term in item.guides}
    return [guide for guide in plan_guides(plan) if guide.sha256 in named]


def guide_bytes(guide: Guide, layout: Layout) -> bytes:
    """A guide's segments as little-endian float32, concatenated: the bytes that its SHA-256 is of."""
    parts = [guide.values[layout.segment_slice(segment)] for segment in guide.segments]
    return b"".join(part.astype("<f4", copy=False).tobytes() for part in parts)


def guide_chunks(guides: Sequence[Guide], layout: Layout, first_chunk: int) -> Iterator[pb.GuideChunk]:
    """The stream of some guides from one chunk on: by segment first, then by guide, in chunks of CHUNK_BYTES.

    The same guides always give the same chunks, so a broken stream can be resumed at any of them.
    """
    pieces: list[tuple[int, Guide, int]] = []
    for segment in sorted({segment for guide in guides for segment in guide.segments}):
        span = layout.segment_slice(segment)
        size_bytes = 4 * (span.stop - span.start)
        for guide in guides:
            if segment in guide.segments:
                pieces += [(segment, guide, offset) for offset in range(0, size_bytes, CHUNK_BYTES)]
    known: tuple[int, bytes] = (-1, b"")
    encoded, digest = b"", b""
    for index in range(first_chunk, len(pieces)):
        segment, guide, offset = pieces[index]
        if known != (segment, guide.sha256):
            encoded = guide.values[layout.segment_slice(segment)].astype("<f4", copy=False).tobytes()
            digest = hashlib.sha256(encoded).digest()
            known = (segment, guide.sha256)
        yield pb.GuideChunk(
            index=index,
            total=len(pieces),
            guide_sha256=guide.sha256,
            segment=segment,
            encoding=pb.GUIDE_ENCODING_FLOAT32,
            offset_bytes=offset,
            segment_size_bytes=len(encoded),
            segment_sha256=digest,
            data=encoded[offset : offset + CHUNK_BYTES],
        )
