"""Whether devices count a round's scalars as the head's alone, by the rule that they apply themselves."""

from __future__ import annotations

from cloud_service import estimators, messages
from cloud_service.compression import AS_SAMPLED
from cloud_service.directions import Float32, Guides
from cloud_service.plan import RoundSettings
from device_runtime.concentration import Supplies, weigh
from device_runtime.errors import BudgetExceeded
from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb


def counts_as_head(
    settings: RoundSettings, guides: Guides, sampled: Float32 | None, scale: Float32 | None, layout: Layout
) -> bool:
    """Whether a device would, once it has the scale and the guide; see device_runtime/concentration.py.

    `sampled` (n,) is the guide, or that of the round before while it is not sampled yet; None: there is none.
    One pass over the active parameters. Also True where it would refuse such directions at all: then it is
    asked for few.
    """
    guide = None if sampled is None else guides.at(AS_SAMPLED)
    named = estimators.direction(settings, guide, layout, settings.seed, 1)
    task = pb.DirectionsTask(
        epsilon=settings.epsilon,
        active_segments=settings.active_segments,
        steps=[pb.Step(directions=messages.directions([named], measured=True))],
    )
    spans = {segment: layout.segment_slice(segment) for segment in settings.active_segments}
    received = {}
    if guide is not None and sampled is not None:
        received[guide.name] = {segment: sampled[layout.segment_slice(segment)] for segment in guide.segments}
    try:
        return weigh(task, Supplies(scale, received), spans, layout.segments[-1]).head_scalars > 0
    except BudgetExceeded:
        return True
