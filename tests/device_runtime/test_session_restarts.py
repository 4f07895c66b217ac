"""Sessions that are interrupted: by the network, by the cloud, by a full disk, by the end of the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runtime.bundle import Bundle
from device_runtime.engine import Engine
from device_runtime.errors import (
    CooperLLMError,
    NotEnrolled,
    ServerRefused,
    ServerUnreachable,
    StoreFull,
    TaskLost,
    VersionRefused,
)
from device_runtime.local_update import Measurement
from device_runtime.session import Outcome
from protos import federation_pb2 as pb

from .world import World, directions, finished, retry


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_report_that_could_not_be_sent_is_sent_first_after_a_restart(world: World) -> None:
    world.cloud.acks = [ServerUnreachable("gone"), pb.Ack(duplicate=True)]
    with pytest.raises(ServerUnreachable):
        world.turn(world.task())
    world.start()
    world.told()
    assert world.turn() == Outcome()
    assert world.told() == ["enroll", "report", "report OK"]
    first, second = world.cloud.reports
    assert first == second
    world.turn(retry())
    assert len(world.cloud.reports) == 2


@pytest.mark.parametrize(("error", "claims"), [(TaskLost("late"), True), (VersionRefused("other"), False)])
def test_a_report_that_nobody_waits_for_is_dropped(world: World, error: CooperLLMError, claims: bool) -> None:
    world.cloud.acks = [error]
    assert world.turn(world.task()) == Outcome(wait_s=0.5)
    assert world.told()[-2:] == ["report", "lost"]
    world.turn(retry())
    assert bool(world.cloud.check_ins[-1].adapter_sha256) == claims
    assert len(world.cloud.reports) == 1


def test_a_report_that_breaks_a_rule_is_dropped_and_told(world: World) -> None:
    world.cloud.acks = [ServerRefused("scalars has 3 values")]
    with pytest.raises(ServerRefused):
        world.turn(world.task())
    world.turn(retry())
    assert len(world.cloud.reports) == 1


def test_a_cloud_that_forgot_the_device_is_enrolled_with_again_once(world: World) -> None:
    world.turn(retry())
    world.turn(NotEnrolled("who?"), retry())
    assert world.told() == ["enroll", "check_in", "wait", "check_in", "enroll", "check_in", "wait"]
    with pytest.raises(NotEnrolled):
        world.turn(NotEnrolled("who?"), NotEnrolled("who?"))


def test_a_lease_that_ends_while_guides_stream_is_dropped(world: World) -> None:
    wanted = directions()
    wanted.guides.append(pb.Guide(sha256=b"g" * 32, segments=[1]))

    def lost(task_id: str, start: tuple[int, int, int], version: bytes) -> Any:
        raise TaskLost("expired")

    world.cloud.stream_guides = lost  # type: ignore[method-assign]
    assert world.turn(world.task(directions=wanted)).wait_s > 0
    assert not world.cloud.reports


RUNS_OF_A_DIRECTION = 2 * 2 * 3  # signs, batches of four, segments


class Interrupted(Engine):
    """An engine whose process ends in the middle of its second measurement, once; the first is of one
    direction.
    """

    ends = True

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.measured = 0

    def measure(self, *arguments: Any) -> Measurement:
        self.measured += 1
        if self.measured == 2 and Interrupted.ends:
            Interrupted.ends = False
            raise KeyboardInterrupt
        return super().measure(*arguments)


def two_steps() -> pb.DirectionsTask:
    task = directions()
    task.steps.append(directions(batch_seed=6).steps[0])
    task.steps[0].local_learning_rate = 0.01
    return task


def test_a_process_that_ends_between_directions_goes_on_behind_them(tmp_path: Path) -> None:
    whole = World(tmp_path / "whole")
    whole.turn(whole.task(directions=two_steps()))
    world = World(tmp_path / "cut", make_engine=Interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.turn(world.task(directions=two_steps()))
    assert np.array_equal(world.engine.adapter, world.adapter)
    world.start()
    world.told()
    world.turn(world.task(update=world.unchanged(), directions=two_steps()))
    assert world.told() == [
        "enroll", "check_in", "task", "fetch", "version", "version 1 unchanged", "compute", "computed",
        "report", "report OK",
    ]  # fmt: skip
    assert world.cloud.reports[0].timing.segment_runs == 7 * RUNS_OF_A_DIRECTION
    assert not world.store.progress.of("task-1")
    assert world.cloud.reports[0].scalars == whole.cloud.reports[0].scalars


def test_progress_of_another_task_is_not_mixed_in(tmp_path: Path) -> None:
    Interrupted.ends = True
    world = World(tmp_path / "cut", make_engine=Interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.turn(world.task(directions=two_steps()))
    world.start()
    world.turn(world.task(2, world.unchanged(), directions=two_steps()))
    assert world.cloud.reports[0].timing.segment_runs == 8 * RUNS_OF_A_DIRECTION


def test_a_disk_that_fills_up_before_the_report_is_kept_sends_nothing(world: World) -> None:
    world.turn(world.task())
    blocker = world.folder / "store" / "state.tmp"
    blocker.mkdir()  # nothing can be written beside the state any more
    with pytest.raises(CooperLLMError, match="cannot write"):
        world.turn(world.task(2, world.unchanged()))
    assert len(world.cloud.reports) == 1
    blocker.rmdir()
    world.start()
    world.turn(world.task(2, world.unchanged()))
    assert len(world.cloud.reports) == 2
    assert not issubclass(CooperLLMError, StoreFull)


def test_a_device_that_never_worked_needs_no_last_version(world: World) -> None:
    assert world.turn(finished(world.snapshot(world.adapter, 5))) == Outcome(finished=True)
    assert not world.cloud.fetched
