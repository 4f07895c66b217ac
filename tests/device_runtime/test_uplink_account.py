"""What the account says of scalars that go up ahead of their report, over restarts, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runtime import groups, streamed
from device_runtime.budget import Budget
from device_runtime.errors import (
    CooperLLMError,
    TaskLost,
)
from device_runtime.progress import Progress
from device_runtime.streaming import Order
from device_runtime.stretches import Stretches
from device_runtime.tasks import Finding
from protos import federation_pb2 as pb

from .fake_cloud import guide_chunks
from .slow_world import Orderly, ends_at, land, slow_world, spans_of_parts
from .toy_bundle import HEAD
from .world import World, directions

COUNT = 24


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GROUP_S", 0.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return slow_world(tmp_path / "world")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The scalars of a device that sends none ahead."""
    quiet = World(tmp_path_factory.mktemp("quiet"))
    quiet.turn(quiet.task(directions=directions(COUNT)))
    assert not quiet.cloud.parts  # no work is longer than no time
    return list(quiet.cloud.reports[0].scalars)


def test_what_leaves_is_charged_on_disk_before_the_first_part_and_once(world: World) -> None:
    seen: list[tuple[dict[str, list[int]], int]] = []
    send = world.cloud.send_scalars

    def looking(part: pb.Scalars) -> pb.ScalarsAck:
        state = world.store._read_state()
        kept = len(type(world.store.progress)(world.folder / "store" / "progress").of("task-1"))
        seen.append((state.disclosed, kept - part.first - len(part.scalars)))
        assert [entry[2:5] for entry in state.disclosures] == [["directions", COUNT, 0]]
        return send(part)

    world.cloud.send_scalars = looking  # type: ignore[method-assign]
    world.turn(world.task(directions=directions(COUNT)))
    assert seen == [({"1": [COUNT, 0]}, 0)] * 2
    state = world.store.state
    assert state.disclosed == {"1": [COUNT, 0]}
    assert [entry[2:5] for entry in state.disclosures] == [["directions", COUNT, 0]]
    assert state.charged == []


def test_scalars_are_forced_to_the_disk_before_they_leave(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a loss of power would have the device measure, and noise, a scalar again that has left."""
    synced: list[int] = []
    sync = Progress.sync

    def noting(progress: Progress) -> None:
        sync(progress)
        synced.append(len(progress.of("task-1")))

    monkeypatch.setattr(Progress, "sync", noting)
    send = world.cloud.send_scalars

    def looking(part: pb.Scalars) -> pb.ScalarsAck:
        assert synced[-1] == part.first + len(part.scalars)
        return send(part)

    world.cloud.send_scalars = looking  # type: ignore[method-assign]
    world.turn(world.task(directions=directions(COUNT)))
    assert synced == [4, 16]
    assert world.cloud.reports[0].first_scalar == 16


def interrupted(folder: Path, at: int, limit: int = 40) -> World:
    """A device whose process ended after `at` - 1 directions, and started again."""
    world = slow_world(folder, ends_at(at), limit)
    with pytest.raises(KeyboardInterrupt):
        world.turn(world.task(directions=directions(COUNT)))
    land()
    world.make_engine = Orderly
    world.start()
    return world


def again(world: World, received: int, **changes: Any) -> pb.CheckInReply:
    reply = world.task(update=world.unchanged(), **{"directions": directions(COUNT)} | changes)
    reply.task.received_scalars = received
    return reply


def test_a_process_that_starts_again_sends_nothing_twice_and_pays_once(
    tmp_path: Path, expected: list[float]
) -> None:
    world = interrupted(tmp_path, 8)
    assert spans_of_parts(world) == [(0, 4)]
    assert world.store.state.disclosed == {"1": [COUNT, 0]}
    world.turn(again(world, 4))  # 24 more would be beyond 40
    assert spans_of_parts(world) == [(0, 4), (4, 16)]
    (report,) = world.cloud.reports
    assert (report.status, report.first_scalar) == (pb.REPORT_STATUS_OK, 16)
    assert list(report.scalars) == expected[16:]
    assert world.store.state.disclosed == {"1": [COUNT, 0]}
    assert len(world.store.state.disclosures) == 1


def test_a_cloud_that_lost_its_parts_gets_them_again(tmp_path: Path, expected: list[float]) -> None:
    world = interrupted(tmp_path, 8)
    world.turn(again(world, 0))
    assert spans_of_parts(world)[1] == (0, 8)
    assert world.cloud.reports[0].first_scalar == 8
    assert list(world.cloud.reports[0].scalars) == expected[8:]


def test_a_cloud_that_claims_more_than_there_is_gets_no_more_than_the_rest(tmp_path: Path) -> None:
    world = interrupted(tmp_path, 8)
    world.turn(again(world, 1000))
    assert len(world.cloud.parts) == 1
    assert (world.cloud.reports[0].first_scalar, list(world.cloud.reports[0].scalars)) == (COUNT, [])


@pytest.mark.parametrize("change", ["seed", "batch", "epsilon", "scale", "guide", "adapter"])
def test_another_task_under_the_same_name_is_charged_for_itself(tmp_path: Path, change: str) -> None:
    world = interrupted(tmp_path, 8)
    reply = again(world, 0)
    wanted = reply.task.directions
    match change:
        case "seed":
            wanted.steps[0].directions[0].seed = 99
        case "batch":
            wanted.steps[0].batch_seed = 99
        case "epsilon":
            wanted.epsilon = 0.02
        case "scale":
            wanted.scale_sha256 = b"s" * 32
        case "guide":
            wanted.guides.add(sha256=b"g" * 32, segments=[0])
        case "adapter":
            reply.task.update.CopyFrom(world.snapshot(world.adapter + 1, 1))
    world.turn(reply)
    assert world.status == "REFUSED_DISCLOSURE_BUDGET"
    assert len(world.cloud.parts) == 1
    assert world.store.state.disclosed == {"1": [COUNT, 0]}


def test_a_round_pays_for_no_other(tmp_path: Path) -> None:
    world = interrupted(tmp_path, 8)
    reply = again(world, 0)
    reply.task.round = 2
    world.turn(reply)
    assert world.store.state.disclosed == {"1": [COUNT, 0], "2": [COUNT, 0]}


@pytest.mark.parametrize("group", [4, 0, None])
def test_guides_are_weighed_before_anything_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int | None
) -> None:
    """By a feed in groups, by one that holds whole guides, and without one."""
    monkeypatch.setattr(streamed, "choose", lambda sizes, left_bytes: Order(group or 0, 0))
    world = slow_world(tmp_path)
    values = np.ones(world.bundle.layout.parameters, np.float32)
    guide, chunks = guide_chunks({HEAD: values[world.bundle.layout.segment_slice(HEAD)].tobytes()})
    wanted = directions(COUNT - 1)
    wanted.guides.append(guide)
    wanted.steps[0].directions[0].isotropic_scale = 1e-3
    wanted.steps[0].directions[0].guides.add(guide_sha256=guide.sha256, coefficient=1.0)
    last = pb.Direction(seed=77, count=1, isotropic_scale=1.0, active_segments=[HEAD])
    wanted.steps.add(batch_seed=6, batch_examples=8, directions=[last])
    wanted.steps[0].local_learning_rate = 0.01 if group is None else 0.0  # what moves is not streamed
    for number, most in enumerate((COUNT, COUNT - 1)):
        world.budget = Budget(64, max_head_scalars_per_round=most)
        world.start()
        world.cloud.chunks[f"task-{number}"] = chunks
        world.turn(world.task(number, directions=wanted))
    assert [report.status for report in world.cloud.reports] == [
        pb.REPORT_STATUS_OK,
        pb.REPORT_STATUS_REFUSED_DISCLOSURE_BUDGET,
    ]
    assert {part.task_id for part in world.cloud.parts} == {"task-0"}
    assert world.store.state.disclosed == {"0": [COUNT, COUNT]}


def test_a_task_that_comes_back_after_another_pays_again(tmp_path: Path) -> None:
    world = interrupted(tmp_path, 8)
    other = world.task(update=world.unchanged(), directions=directions(8))
    other.task.task_id = "other"
    world.turn(other)
    assert world.status == "OK"
    assert world.store.state.disclosed == {"1": [COUNT + 8, 0]}
    world.turn(again(world, 0))  # its scalars are gone from here: it would be measured anew
    assert world.status == "REFUSED_DISCLOSURE_BUDGET"


def test_another_task_that_never_ended_ends_the_mark_too(tmp_path: Path) -> None:
    world = interrupted(tmp_path, 8, limit=64)
    other = world.task(update=world.unchanged(), directions=directions(8))
    other.task.task_id = "other"
    world.make_engine = ends_at(3)
    world.start()
    with pytest.raises(KeyboardInterrupt):
        world.turn(other)
    world.make_engine = Orderly
    world.start()
    world.turn(again(world, 0))
    assert world.status == "OK"
    assert world.store.state.disclosed == {"1": [2 * COUNT, 0]}


def test_a_task_that_is_lost_while_it_runs_pays_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*arguments: object) -> Finding:
        raise TaskLost("the lease expired")

    world = interrupted(tmp_path, 8, limit=64)
    with monkeypatch.context() as patch:
        patch.setattr(Stretches, "compute", lost)
        world.turn(again(world, 4))
    assert not world.cloud.reports
    world.turn(again(world, 0))
    assert world.status == "OK"
    assert world.store.state.disclosed == {"1": [2 * COUNT, 0]}


def test_a_lost_task_stays_charged_and_pays_again(tmp_path: Path) -> None:
    world = slow_world(tmp_path, limit=60)
    world.cloud.acks = [TaskLost("late")]
    world.turn(world.task(directions=directions(COUNT)))
    assert world.store.state.charged == []
    world.turn(again(world, 0))
    assert world.status == "OK"
    assert world.store.state.disclosed == {"1": [2 * COUNT, 0]}
    world.turn(again(world, 0))
    assert world.status == "REFUSED_DISCLOSURE_BUDGET"


def test_a_refusal_after_parts_left_leaves_them_in_the_account(tmp_path: Path) -> None:
    world = interrupted(tmp_path, 8)
    world.examples = world.examples[:6]
    world.turn(again(world, 4))
    assert world.status == "NOT_ENOUGH_EXAMPLES"
    assert world.store.state.disclosed == {"1": [COUNT, 0]}
    assert [entry[3] for entry in world.store.state.disclosures] == [COUNT, 0]
    assert world.store.state.charged == []


def test_a_disk_that_cannot_be_charged_sends_nothing(world: World) -> None:
    world.turn(world.task(2, directions=directions(2)))
    blocker = world.folder / "store" / "state.tmp"
    blocker.mkdir()
    with pytest.raises(CooperLLMError, match="cannot write"):
        world.turn(world.task(update=world.unchanged(), directions=directions(COUNT)))
    land()
    assert not world.cloud.parts
