"""Tasks measured along guides that still arrive: same scalars, little held, nothing kept too soon."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime import preparation, streamed, streaming
from device_runtime.budget import Budget
from device_runtime.core import kernels
from device_runtime.errors import ServerUnreachable
from protos import federation_pb2 as pb

from .fake_cloud import guide_chunks
from .toy_bundle import HEAD
from .world import World, directions

SEGMENTS = (0, 1, HEAD)


def guided(
    world: World, number: int = 1, count: int = 6, coded: bool = False, **changes: Any
) -> pb.CheckInReply:
    """A task along one guide over all segments; its chunks are in the cloud."""
    layout = world.bundle.layout
    values = np.random.default_rng(number).normal(size=layout.parameters).astype(np.float32)
    slices = {segment: values[layout.segment_slice(segment)] for segment in SEGMENTS}
    encoded = {segment: own.tobytes() for segment, own in slices.items()}
    if coded:
        encoded = {segment: kernels.encode_guide(own, 0.4) for segment, own in slices.items()}
    guide, chunks = guide_chunks(encoded)
    for chunk in chunks:
        chunk.encoding = pb.GUIDE_ENCODING_CODED if coded else pb.GUIDE_ENCODING_FLOAT32
    wanted = directions(count)
    wanted.guides.append(guide)
    wanted.steps[0].directions[0].guides.add(guide_sha256=guide.sha256, coefficient=0.5)
    for name, value in changes.items():
        setattr(wanted, name, value)
    world.cloud.chunks[f"task-{number}"] = chunks
    return world.task(number, directions=wanted)


def scalars(folder: Path, **changes: Any) -> list[float]:
    """What a device of its own reports."""
    world = World(folder)
    world.turn(guided(world, **changes))
    assert world.status == "OK"
    return list(world.cloud.reports[-1].scalars)


@pytest.mark.parametrize("coded", [False, True])
def test_the_scalars_are_those_of_whole_guides_in_every_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coded: bool
) -> None:
    arriving = scalars(tmp_path / "arriving", coded=coded)
    assert scalars(tmp_path / "in turn", coded=coded, in_turn=True) == arriving
    for group in (1, 2, 4, 0):
        monkeypatch.setattr(streamed, "choose", lambda sizes, left, group=group: streaming.Order(group, 0))
        assert scalars(tmp_path / f"groups {group}", coded=coded) == arriving
    monkeypatch.setattr(preparation, "can_stream", lambda task: False)
    assert scalars(tmp_path / "whole", coded=coded) == arriving


def test_of_a_guide_one_segment_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, held = World(tmp_path), []
    advance = streamed.Feed._enter

    def watched(feed: streamed.Feed, segment: int) -> float:
        arrived_ms = advance(feed, segment)
        held.append(world.engine.guide_bytes)
        return arrived_ms

    monkeypatch.setattr(streamed.Feed, "_enter", watched)
    world.turn(guided(world))
    counts = world.engine.segment_counts
    assert held == [4 * counts[segment] for segment in SEGMENTS]
    assert world.engine.guide_bytes == 0
    two_largest = sum(sorted(4 * count for count in counts.values())[-2:])
    assert max(held) <= two_largest < 4 * world.bundle.layout.parameters


class Gate:
    """A cloud's stream that stops before each segment until it is let on, or breaks there."""

    def __init__(self, world: World) -> None:
        self._chunks = world.cloud.chunks
        self.ran: list[int] = []
        self.opened: list[tuple[int, int, int]] = []
        self.gates = {segment: threading.Event() for segment in SEGMENTS}
        self.breaks: set[int] = set()
        world.cloud.stream_guides = self.stream  # type: ignore[method-assign]

    def stream(
        self, task_id: str, start: tuple[int, int, int], version: bytes = b""
    ) -> Iterator[pb.GuideChunk]:
        self.opened.append(start)
        for chunk in self._chunks[task_id]:
            if (chunk.segment, chunk.guide, chunk.offset_bytes) >= start:
                if chunk.segment in self.breaks:
                    raise ServerUnreachable("the link is gone")
                assert self.gates[chunk.segment].wait(10)
                yield chunk


def test_a_segment_runs_before_the_next_one_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    reply, gate = guided(world), Gate(world)
    gate.gates[0].set()
    leave = streamed.Feed._leave

    def left(feed: streamed.Feed, segment: int) -> None:
        leave(feed, segment)
        gate.ran.append(segment)
        if segment + 1 in gate.gates:
            gate.gates[segment + 1].set()  # only now may the next one come

    monkeypatch.setattr(streamed.Feed, "_leave", left)
    world.turn(reply)
    assert world.status == "OK"
    assert gate.ran == list(SEGMENTS)
    spans = [span for span in world.cloud.reports[-1].timing.spans if span.HasField("segment")]
    names = [(span.name, span.segment) for span in spans]
    assert names == [(name, k) for k in SEGMENTS for name in ("guide_arrived", "perturb", "run")]
    times = [ms for span in spans for ms in (span.start_ms, span.end_ms)]
    assert times == sorted(times)  # here each waits for the one before


def test_a_session_goes_on_behind_the_segments_that_arrived(tmp_path: Path) -> None:
    world = World(tmp_path)
    reply, gate = guided(world), Gate(world)
    for each in gate.gates.values():
        each.set()
    gate.breaks = {HEAD}
    with pytest.raises(ServerUnreachable):
        world.turn(reply)
    assert not world.cloud.reports
    gate.breaks.clear()
    world.start()
    world.turn(guided(world))
    assert world.status == "OK"
    assert gate.opened == [(0, 0, 0), (HEAD, 0, 0)]
    assert list(world.cloud.reports[-1].scalars) == scalars(tmp_path / "at once")


@pytest.mark.parametrize("damage", ["altered", "truncated", "cut short"])
def test_nothing_of_a_damaged_stream_is_used(tmp_path: Path, damage: str) -> None:
    world = World(tmp_path)
    reply = guided(world, coded=True)
    chunks = world.cloud.chunks["task-1"]
    last = [chunk for chunk in chunks if chunk.segment == HEAD]
    if damage == "altered":
        last[-1].data = bytes([last[-1].data[0] ^ 1]) + last[-1].data[1:]
    elif damage == "truncated":
        last[-1].data = last[-1].data[:-1]
    else:
        chunks.remove(last[-1])
    world.turn(reply)
    assert world.status == "BAD_ARTIFACT"
    assert not world.cloud.reports[-1].scalars
    assert world.store.progress.of("task-1") == []
    assert str(HEAD) not in next(iter(world.store.state.guides.values()))
    assert np.array_equal(world.engine.adapter.view(np.int32), world.adapter.view(np.int32))


def test_a_task_beyond_the_budget_is_refused_when_its_guides_have_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the guide's energy is in the head: 6 scalars about the head alone, of which 4 are allowed."""
    monkeypatch.setattr(streamed, "choose", lambda sizes, left: streaming.Order(2, 0))
    world = World(tmp_path, budget=Budget(64, max_head_scalars_per_round=4))
    reply = guided(world)
    layout = world.bundle.layout
    values: NDArray[np.float32] = np.zeros(layout.parameters, np.float32)
    values[layout.segment_slice(HEAD)] = 50.0
    slices = {segment: values[layout.segment_slice(segment)].tobytes() for segment in SEGMENTS}
    guide, world.cloud.chunks["task-1"] = guide_chunks(slices)
    task = reply.task.directions
    task.guides[0].CopyFrom(guide)
    task.steps[0].directions[0].guides[0].guide_sha256 = guide.sha256
    world.turn(reply)
    assert world.status == "REFUSED_DISCLOSURE_BUDGET"
    assert world.store.progress.of("task-1") == []
    assert not world.cloud.reports[-1].scalars
    assert not world.store.state.disclosed
