"""An engine in streaming order: guides by name, slices in memory for as long as they are needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_runtime.directions import Direction
from device_runtime.engine import Engine
from device_runtime.errors import (
    ArtifactError,
    DirectionBelowGrid,
    DirectionOutOfRange,
    Stopped,
    UnsupportedTask,
)
from device_runtime.guides import Slices
from device_runtime.local_update import Batch
from device_runtime.streaming import Sizes, choose, streamed_bytes

from .streamed import streamed
from .toy_bundle import HEAD, open_toy_bundle, toy_examples

EPSILON = 1e-3
ALL = [0, 1, HEAD]
FIRST, SECOND = b"a" * 32, b"b" * 32


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(open_toy_bundle(tmp_path / "bundle"))


def guides_of(engine: Engine, segments: dict[bytes, list[int]]) -> dict[bytes, Slices]:
    rng, counts = np.random.default_rng(2), engine.segment_counts
    return {
        name: {s: rng.normal(scale=0.1, size=counts[s]).astype(np.float32) for s in of}
        for name, of in segments.items()
    }


def batches_of(engine: Engine) -> list[Batch]:
    return engine.private_examples(lambda names: toy_examples()).train.batches(range(10))


def guided(count: int, guide: int = 0) -> list[Direction]:
    return [Direction(seed, 1.0, [(guide, 0.5)], ALL) for seed in range(count)]


def test_streaming_order_holds_the_two_largest_segments_and_gives_the_same_bits(engine: Engine) -> None:
    guides = guides_of(engine, {FIRST: ALL, SECOND: [1]})
    directions = [*guided(2), *guided(2, 1), Direction(9, 0.0, [(1, 2.0), (0, -1.0)], ALL)]
    batches = batches_of(engine)
    engine.set_guides(guides)
    whole = engine.measure(batches, directions, EPSILON, ALL)
    everything_bytes = engine.guide_bytes
    assert everything_bytes == 4 * sum(
        values.size for slices in guides.values() for values in slices.values()
    )
    found = streamed(engine, batches, directions, EPSILON, ALL, guides=guides)
    for ours, theirs in zip(
        (found.measurement.rho, found.measurement.loss_plus, found.measurement.loss_minus),
        (whole.rho, whole.loss_plus, whole.loss_minus),
        strict=True,
    ):
        assert ours.tobytes() == theirs.tobytes()
    by_segment = [sum(slices[s].nbytes for slices in guides.values() if s in slices) for s in ALL]
    assert found.most_guide_bytes == max(by_segment[0] + by_segment[1], by_segment[1] + by_segment[2])
    assert found.most_guide_bytes <= sum(sorted(by_segment)[-2:]) < everything_bytes
    assert engine.guide_bytes == 0


def test_groups_in_streaming_order_hold_what_was_planned(engine: Engine) -> None:
    guides, batches, directions = guides_of(engine, {FIRST: ALL}), batches_of(engine), guided(5)
    engine.set_guides(guides)
    whole = engine.measure(batches, directions, EPSILON, ALL).rho
    state_bytes, context_bytes = engine.begun_bytes(batches)
    assert state_bytes == sum(batch.input_ids.size for batch in batches) * engine.hidden_size * 4
    by_segment = tuple(guides[FIRST][segment].nbytes for segment in ALL)
    sizes = Sizes(by_segment, state_bytes, len(directions), context_bytes)
    order = choose(sizes, streamed_bytes(sizes, 2))
    assert order.group == 2
    rho, most = [], 0
    for first in range(0, len(directions), order.group):
        group = directions[first : first + order.group]
        found = streamed(engine, batches, group, EPSILON, ALL, guides=guides)
        rho.extend(found.measurement.rho)
        most = max(most, found.most_guide_bytes)
    assert np.array(rho).tobytes() == whole.tobytes()
    assert most + 2 * order.group * state_bytes + context_bytes == order.held_bytes


def test_a_slice_that_is_missing_is_asked_for_and_the_work_goes_on(engine: Engine) -> None:
    guides, batches, directions = guides_of(engine, {FIRST: ALL}), batches_of(engine), guided(2)
    engine.set_guides(guides)
    whole = engine.measure(batches, directions, EPSILON, ALL).rho
    engine.name_guides(guides)
    for segment in engine.begin(batches, directions, EPSILON, ALL):
        with pytest.raises(ArtifactError, match=f"segment {segment} of a guide"):
            engine.advance()
        engine.set_guide_segment(FIRST, segment, guides[FIRST][segment])
        assert engine.advance() == segment
        engine.clear_guide_segment(FIRST, segment)
    with pytest.raises(UnsupportedTask, match="segments left"):
        engine.advance()
    assert engine.finish().rho.tobytes() == whole.tobytes()


def test_only_slices_that_a_direction_is_perturbed_along_are_asked_for(engine: Engine) -> None:
    guides, batches = guides_of(engine, {FIRST: [0, 1], SECOND: ALL}), batches_of(engine)
    index = engine.name_guides(guides)
    assert index == {FIRST: 0, SECOND: 1}
    engine.begin(batches, [Direction(1, 1.0, [(0, 1.0)], [1, HEAD]), Direction(2, 1.0, [], [])], EPSILON, ALL)
    engine.advance()
    with pytest.raises(ArtifactError, match="segment 1"):
        engine.advance()
    engine.set_guide_segment(FIRST, 1, guides[FIRST][1])
    engine.advance()
    engine.advance()
    assert engine.finish().rho.shape == (2,)


def test_slices_of_no_guide_are_refused(engine: Engine) -> None:
    values = np.zeros(engine.segment_counts[1], np.float32)
    engine.name_guides({FIRST: [0]})
    for name, segment, refused in ((SECOND, 0, values), (FIRST, 1, values)):
        with pytest.raises(UnsupportedTask, match="of no guide"):
            engine.set_guide_segment(name, segment, refused)
    with pytest.raises(UnsupportedTask, match="one value a parameter"):
        engine.set_guide_segment(FIRST, 0, values[:3])
    assert engine.guide_bytes == 0


def test_errors_are_those_of_measure_and_end_the_work(engine: Engine) -> None:
    batches, before = batches_of(engine), engine.adapter.tobytes()
    engine.begin(batches, [Direction(1, 1.0, [], ALL)], 1e-7, ALL)
    with pytest.raises(UnsupportedTask, match="finish or abandon"):
        engine.measure(batches, [Direction(1, 1.0, [], ALL)], EPSILON, ALL)
    with pytest.raises(UnsupportedTask, match="finish or abandon"):
        engine.set_guides({})
    for _ in ALL:
        engine.advance()
    with pytest.raises(DirectionBelowGrid, match="use epsilon"):
        engine.finish()
    guides = {FIRST: {1: np.full(engine.segment_counts[1], 1e8, np.float32)}}
    with pytest.raises(DirectionOutOfRange):
        streamed(engine, batches, guided(1), EPSILON, ALL, guides=guides)
    engine.begin(batches, [Direction(1, 1.0, [], ALL)], EPSILON, ALL)
    engine.advance()
    engine.stop()
    with pytest.raises(Stopped):
        engine.advance()
    engine.resume()
    with pytest.raises(UnsupportedTask, match="segments left"):
        engine.advance()
    engine.begin(batches, [Direction(1, 1.0, [], ALL)], EPSILON, ALL)
    engine.abandon()
    assert engine.adapter.tobytes() == before
    assert engine.measure(batches, [Direction(1, 1.0, [], ALL)], EPSILON, ALL).rho.shape == (1,)


def test_work_says_where_the_time_went(engine: Engine) -> None:
    before = engine.work
    streamed(engine, batches_of(engine), [Direction(1, 1.0, [], ALL)], EPSILON, ALL)
    work = engine.work.since(before)
    for times in (work.ns, work.perturb_ns, work.check_ns):
        assert len(times) == HEAD + 1
        assert all(time_ns > 0 for time_ns in times)
