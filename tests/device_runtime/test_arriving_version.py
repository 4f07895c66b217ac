"""Versions that arrive with the guides of their task: the bits of whole ones, and nothing of a bad one."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from device_runtime import streamed, streaming
from device_runtime.core import kernels
from device_runtime.errors import ServerUnreachable, Stopped
from device_runtime.versions import adapter_sha256
from protos import federation_pb2 as pb

from .test_arriving_guides import SEGMENTS, Gate, guided
from .toy_bundle import HEAD, toy_adapter
from .world import Float32, World, finished

NAME = b"v" * 32


def second(world: World) -> Float32:
    """Version 2: other values in all segments."""
    return toy_adapter(world.bundle.layout, seed=10)


def in_stream(
    world: World, number: int, before: Float32 | None, after: Float32, coded: bool = True
) -> pb.CheckInReply:
    """A guided task of this number about version `number`, which comes along, in chunks of up to 40 bytes."""
    reply, layout = guided(world, number, coded=coded), world.bundle.layout
    pieces = {k: kernels.encode_piece(before, after, layout, k) for k in SEGMENTS}
    own = [
        pb.GuideChunk(
            segment=segment, offset_bytes=start, data=piece[start : start + 40],
            segment_size_bytes=len(piece),
            encoding=pb.GUIDE_ENCODING_WHOLE_STEPS if before is None else pb.GUIDE_ENCODING_STEPS,
            segment_sha256=hashlib.sha256(piece).digest(),
        )
        for segment, piece in pieces.items()
        for start in range(0, len(piece), 40)
    ]  # fmt: skip
    for chunk in (guides := world.cloud.chunks[f"task-{number}"]):
        chunk.guide = 1
    world.cloud.chunks[f"task-{number}"] = sorted([*own, *guides], key=lambda c: (c.segment, c.guide))
    streamed_form = pb.Guide(sha256=NAME, segments=SEGMENTS)
    reply.task.update.CopyFrom(
        pb.VersionUpdate(
            version=number,
            adapter_sha256=adapter_sha256(after),
            streamed=streamed_form,
            from_version=number - 1,
        )
    )
    return reply


def at_version_1(folder: Path) -> World:
    """A device that has done a task about version 1."""
    world = World(folder)
    world.turn(world.task(1))
    world.told()
    return world


def scalars_by_snapshot(folder: Path) -> list[float]:
    world = at_version_1(folder)
    reply = guided(world, 2, coded=True)
    reply.task.update.CopyFrom(world.snapshot(second(world), 2))
    world.turn(reply)
    return list(world.cloud.reports[-1].scalars)


def assert_holds(world: World, adapter: Float32, version: int) -> None:
    assert world.store.state.adapter_version == version
    assert world.store.read_adapter() == adapter.tobytes()
    assert world.engine.adapter.tobytes() == adapter.tobytes()


@pytest.mark.parametrize("from_nothing", [False, True])
@pytest.mark.parametrize("group", [1, 4, 6, 0])
def test_scalars_and_adapter_are_those_of_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int, from_nothing: bool
) -> None:
    expected = scalars_by_snapshot(tmp_path / "by snapshot")
    monkeypatch.setattr(streamed, "choose", lambda sizes, left: streaming.Order(group, 0))
    world = at_version_1(tmp_path)
    world.turn(in_stream(world, 2, None if from_nothing else world.adapter, second(world)))
    assert world.status == "OK"
    assert list(world.cloud.reports[-1].scalars) == expected
    assert world.cloud.reports[-1].adapter_sha256 == adapter_sha256(second(world))
    assert_holds(world, second(world), 2)
    assert all(request.streams_versions for request in world.cloud.check_ins)
    assert world.cloud.versions == [NAME]
    assert world.told() == [
        "check_in", "task", "fetch", "guides", "compute", "version 2 streamed", "computed",
        "report", "report OK",
    ]  # fmt: skip


def test_a_segment_runs_before_the_next_ones_version_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = at_version_1(tmp_path)
    reply, gate = in_stream(world, 2, world.adapter, second(world)), Gate(world)
    gate.gates[0].set()
    leave, seen = streamed.Feed._leave, []

    def left(feed: streamed.Feed, segment: int) -> None:
        leave(feed, segment)
        assert feed._version is not None
        with feed._version.aside():  # what others see while this one waits
            seen.append(world.engine.adapter.tobytes())
        if segment + 1 in gate.gates:
            gate.gates[segment + 1].set()

    monkeypatch.setattr(streamed.Feed, "_leave", left)
    world.turn(reply)
    assert world.status == "OK"
    assert seen == [world.adapter.tobytes()] * len(SEGMENTS)
    spans = [s for s in world.cloud.reports[-1].timing.spans if s.HasField("segment")]
    assert [(s.name, s.segment) for s in spans] == [
        (name, k) for k in SEGMENTS for name in ("version_arrived", "guide_arrived", "perturb", "run")
    ]
    assert_holds(world, second(world), 2)


def test_a_session_goes_on_behind_what_arrived(tmp_path: Path) -> None:
    world = at_version_1(tmp_path)
    reply, gate = in_stream(world, 2, world.adapter, second(world)), Gate(world)
    for each in gate.gates.values():
        each.set()
    gate.breaks = {HEAD}
    with pytest.raises(ServerUnreachable):
        world.turn(reply)
    assert_holds(world, world.adapter, 1)
    gate.breaks.clear()
    world.start()
    world.turn(in_stream(world, 2, world.adapter, second(world)))
    assert gate.opened == [(0, 0, 0), (HEAD, 0, 0)]
    assert list(world.cloud.reports[-1].scalars) == scalars_by_snapshot(tmp_path / "at once")
    assert_holds(world, second(world), 2)


def test_what_is_stopped_in_the_middle_leaves_the_adapter_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = at_version_1(tmp_path)
    enter = streamed.Feed._enter

    def stop_at_the_head(feed: streamed.Feed, segment: int) -> float:
        world.stopped = segment == HEAD
        if world.stopped:
            assert world.engine.adapter.tobytes() != world.adapter.tobytes()
            raise Stopped("stopped: call again to go on")
        return enter(feed, segment)

    with monkeypatch.context() as patched:
        patched.setattr(streamed.Feed, "_enter", stop_at_the_head)
        with pytest.raises(Stopped):
            world.turn(in_stream(world, 2, world.adapter, second(world)))
    assert_holds(world, world.adapter, 1)
    world.stopped = False
    world.turn(in_stream(world, 2, world.adapter, second(world)))
    assert world.status == "OK"
    assert_holds(world, second(world), 2)


def damaged(reply: pb.CheckInReply, chunks: list[pb.GuideChunk]) -> None:
    last = next(c for c in reversed(chunks) if c.guide == 0)
    last.data = last.data[:-1] + bytes([last.data[-1] ^ 1])
    whole = b"".join(c.data for c in chunks if (c.guide, c.segment) == (0, last.segment))
    for chunk in chunks:
        if (chunk.guide, chunk.segment) == (0, last.segment):
            chunk.segment_sha256 = hashlib.sha256(whole).digest()


def promised_another(reply: pb.CheckInReply, chunks: list[pb.GuideChunk]) -> None:
    reply.task.update.adapter_sha256 = b"h" * 32


def from_another(reply: pb.CheckInReply, chunks: list[pb.GuideChunk]) -> None:
    reply.task.update.from_version = 7


@pytest.mark.parametrize("spoil", [damaged, promised_another, from_another])
def test_of_a_bad_version_nothing_is_used_and_a_snapshot_is_asked_for(
    tmp_path: Path, spoil: Callable[[pb.CheckInReply, list[pb.GuideChunk]], None]
) -> None:
    world = at_version_1(tmp_path)
    reply = in_stream(world, 2, world.adapter, second(world))
    spoil(reply, world.cloud.chunks["task-2"])
    world.turn(reply)
    assert len(world.cloud.reports) == 1  # of version 1
    assert world.store.progress.of("task-2") == []
    assert world.engine.adapter.tobytes() == world.adapter.tobytes()
    reply = in_stream(world, 2, None, second(world))
    world.turn(reply)  # under the same name: nothing of the bad one was kept
    assert not world.cloud.check_ins[-1].adapter_sha256
    assert world.status == "OK"
    assert list(world.cloud.reports[-1].scalars) == scalars_by_snapshot(tmp_path / "by snapshot")


def test_a_bad_version_to_a_device_that_claims_none_is_reported(tmp_path: Path) -> None:
    world = World(tmp_path)
    reply = in_stream(world, 1, None, second(world))
    reply.task.update.adapter_sha256 = b"h" * 32
    world.turn(reply)
    assert world.status == "BAD_ARTIFACT"
    assert not world.cloud.reports[-1].scalars


def exits(task: pb.Task) -> None:
    task.directions.exit_segment = 1
    task.directions.active_segments[:] = [0]


def freezes(task: pb.Task) -> None:
    task.directions.active_segments[:] = [1, HEAD]


def has_no_guide(task: pb.Task) -> None:
    del task.directions.guides[:]
    del task.directions.steps[0].directions[0].guides[:]


@pytest.mark.parametrize("change", [exits, freezes, has_no_guide])
def test_a_version_that_would_come_too_late_is_refused(
    tmp_path: Path, change: Callable[[pb.Task], None]
) -> None:
    world = at_version_1(tmp_path)
    reply = in_stream(world, 2, world.adapter, second(world))
    change(reply.task)
    world.turn(reply)
    assert world.status == "UNSUPPORTED_TASK"
    assert_holds(world, world.adapter, 1)


@pytest.mark.parametrize("encoding", [pb.GUIDE_ENCODING_CODED, pb.GUIDE_ENCODING_FLOAT32])
def test_a_guides_encoding_is_none_of_a_versions(
    tmp_path: Path, encoding: pb.GuideEncoding.ValueType
) -> None:
    world = at_version_1(tmp_path)
    reply = in_stream(world, 2, world.adapter, second(world))
    for chunk in world.cloud.chunks["task-2"]:
        if chunk.guide == 0:
            chunk.encoding = encoding
    world.turn(reply)
    assert world.status == "UNSUPPORTED_TASK"
    assert_holds(world, world.adapter, 1)


def test_a_kept_piece_of_a_version_is_no_guide(tmp_path: Path) -> None:
    """A later task whose guide has the version's name, and nothing to send."""
    world = at_version_1(tmp_path)
    world.turn(in_stream(world, 2, world.adapter, second(world)))
    reply = guided(world, 3, coded=True)
    reply.task.update.CopyFrom(world.snapshot(second(world), 2))
    reply.task.directions.guides[0].sha256 = NAME
    reply.task.directions.steps[0].directions[0].guides[0].guide_sha256 = NAME
    world.turn(reply)
    assert world.status == "BAD_ARTIFACT"


def test_two_of_the_same_name_are_refused(tmp_path: Path) -> None:
    world = at_version_1(tmp_path)
    reply = in_stream(world, 2, world.adapter, second(world))
    reply.task.update.streamed.sha256 = reply.task.directions.guides[0].sha256
    world.turn(reply)
    assert world.status == "UNSUPPORTED_TASK"


def test_predictions_meanwhile_are_those_of_one_version(tmp_path: Path) -> None:
    world = at_version_1(tmp_path)
    rows = world.bundle.manifest.chain.batch_examples  # one batch: it is computed at once
    texts = [example.text for example in world.examples[:rows]]

    def predicted() -> bytes:
        return b"".join(logits.tobytes() for logits in world.engine.classify(texts))

    ends, seen = threading.Event(), [predicted()]

    def predict() -> None:
        while not ends.is_set():
            seen.append(predicted())

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        world.turn(in_stream(world, 2, world.adapter, second(world)))
    finally:
        ends.set()
        thread.join()
    assert world.status == "OK"
    assert len(seen) > 2
    assert {predicted(), seen[0]} >= set(seen)


def test_a_job_that_is_over_streams_nothing(tmp_path: Path) -> None:
    world = at_version_1(tmp_path)
    update = in_stream(world, 2, world.adapter, second(world)).task.update
    assert not world.turn(finished(update)).finished
    assert_claims_none(world)


def assert_claims_none(world: World) -> None:
    assert world.store.state.adapter_sha256 == ""
