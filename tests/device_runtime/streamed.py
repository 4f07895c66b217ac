"""A measurement in streaming order, driven as a device drives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from device_runtime.directions import Direction
from device_runtime.engine import Engine
from device_runtime.guides import Slices
from device_runtime.local_update import Batch, Measurement


class Streamed(NamedTuple):
    """What `measure` would answer, and the most bytes of guides that were held for it at once."""

    measurement: Measurement
    most_guide_bytes: int


def streamed(
    engine: Engine,
    batches: list[Batch],
    directions: list[Direction],
    epsilon: float,
    active_segments: list[int],
    exit_segment: int = 0,
    global_weight: float = 0.0,
    guides: Mapping[bytes, Slices] | None = None,
) -> Streamed:
    """Segment k + 1 is already here while segment k runs, as on a link; segment k is dropped after it.

    Directions name guides by their place in `guides`.
    """
    guides = guides or {}
    engine.name_guides(guides)
    before, most = engine.adapter.tobytes(), 0
    segments = engine.begin(batches, directions, epsilon, active_segments, exit_segment, global_weight)
    waiting = list(segments)
    for segment in segments:
        for arriving in waiting[:2]:
            for name, slices in guides.items():
                if arriving in slices:
                    engine.set_guide_segment(name, arriving, slices[arriving].copy())
        most = max(most, engine.guide_bytes)
        assert engine.advance() == segment
        assert engine.adapter.tobytes() == before
        for name, slices in guides.items():
            if segment in slices:
                engine.clear_guide_segment(name, segment)
        waiting = waiting[1:]
    return Streamed(engine.finish(), most)
