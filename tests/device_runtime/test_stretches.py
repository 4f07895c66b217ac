"""Tasks whose conditions go away while they are computed, on an injected clock: every event, in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_runtime import groups
from device_runtime.errors import Stopped
from device_runtime.limits import Limits
from device_runtime.session import Outcome

from .world import World

BEGIN = ["enroll", "check_in", "task", "fetch", "version", "version 1 snapshot"]
AGAIN = ["enroll", "check_in", "task", "fetch", "version", "version 1 unchanged"]
END = ["computed", "report", "report OK"]
RUNS = 12  # of a direction: two signs, two batches of four, three segments


@pytest.fixture(autouse=True)
def one_direction_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast this machine is."""
    monkeypatch.setattr(groups, "GROUP_S", 0.0)


class Machine:
    """A clock on which every look takes a second, and conditions by a script of looks (True without one)."""

    def __init__(self, *holds: bool) -> None:
        self.script, self.seconds, self.paused_s = list(holds), 0.0, list[float]()

    def now(self) -> dict[str, bool | None]:
        return {"charging": self.script.pop(0) if self.script else True}

    def clock(self) -> float:
        self.seconds += 1.0
        return self.seconds

    def pause(self, seconds: float) -> None:
        self.paused_s.append(seconds)


def world_on(machine: Machine, folder: Path, **limits: float) -> World:
    """The world on a machine that must be charging. The first look is the watch's own, when it is made."""
    return World(folder, machine=machine, limits=Limits(require=frozenset({"charging"}), **limits))  # type: ignore[arg-type]


@pytest.fixture
def scalars(tmp_path: Path) -> list[float]:
    """What the task gives when nothing interrupts it."""
    world = World(tmp_path / "whole")
    world.turn(world.task())
    return list(world.cloud.reports[0].scalars)


def test_a_task_waits_for_its_conditions_and_goes_on_behind_the_last_direction(
    tmp_path: Path, scalars: list[float]
) -> None:
    machine = Machine(True, True, True, False, False, False, True)
    world = world_on(machine, tmp_path)
    assert world.turn(world.task()) == Outcome()
    assert world.told() == [*BEGIN, "compute", "paused", "resumed", "compute", *END]
    assert machine.paused_s == [1.0, 1.0]
    report = world.cloud.reports[0]
    assert list(report.scalars) == scalars
    assert report.timing.segment_runs == 4 * RUNS  # none was measured twice
    assert [span.name for span in report.timing.spans][-2:] == ["compute", "compute"]


def test_every_direction_may_be_the_last_of_a_stretch(tmp_path: Path, scalars: list[float]) -> None:
    world = world_on(Machine(True, True, *[False, True] * 3), tmp_path)
    world.turn(world.task())
    assert world.told() == [*BEGIN, *["compute", "paused", "resumed"] * 3, "compute", *END]
    assert list(world.cloud.reports[0].scalars) == scalars
    assert world.cloud.reports[0].timing.segment_runs == 4 * RUNS


def test_a_lease_that_expires_during_the_wait_is_dropped(tmp_path: Path) -> None:
    machine = Machine(True, True, True, *[False] * 1000)
    world = world_on(machine, tmp_path)
    task = world.task()
    task.task.lease_remaining_ms = 20_000
    assert world.turn(task) == Outcome(wait_s=0.5)
    assert world.told() == [*BEGIN, "compute", "paused", "lost"]
    assert 2 < len(machine.paused_s) < 20
    assert not world.cloud.reports
    assert world.store.progress.of("task-1") == []


def test_nothing_begins_while_a_condition_is_missing(tmp_path: Path) -> None:
    world = world_on(Machine(True, False, False, True), tmp_path)
    assert [world.turn(), world.turn()] == [Outcome(wait_s=10.0)] * 2
    assert world.told() == ["paused"]
    assert world.turn(world.task()) == Outcome()
    assert world.told() == ["resumed", *BEGIN, "compute", *END]


def test_a_stop_during_the_wait_ends_it_and_the_next_process_goes_on(
    tmp_path: Path, scalars: list[float]
) -> None:
    machine = Machine(True, True, True, False, False)
    machine.pause = stopping  # type: ignore[method-assign]
    world = world_on(machine, tmp_path)
    with pytest.raises(Stopped, match="now"):
        world.turn(world.task())
    assert world.told() == [*BEGIN, "compute", "paused"]
    kept = world.store.progress.of("task-1")
    assert kept == scalars[: len(kept)]
    world.start()
    world.turn(world.task(update=world.unchanged()))
    assert world.told() == [*AGAIN, "compute", *END]
    assert list(world.cloud.reports[0].scalars) == scalars
    assert world.cloud.reports[0].timing.segment_runs == (4 - len(kept)) * RUNS


def stopping(seconds: float) -> None:
    raise Stopped("now")


def test_when_the_sessions_time_is_up_the_next_session_goes_on(tmp_path: Path, scalars: list[float]) -> None:
    world = world_on(Machine(), tmp_path, max_duration_s=6.0)
    finished: list[int] = []
    world.watch.begin_session()
    with pytest.raises(Stopped, match="between two directions"):
        world.turn(world.task())
    while not world.cloud.reports:
        finished.append(len(world.store.progress.of("task-1")))
        world.watch.begin_session()
        try:
            world.turn(world.task(update=world.unchanged()))
        except Stopped:
            assert len(world.store.progress.of("task-1")) > finished[-1]
    assert list(world.cloud.reports[0].scalars) == scalars
    assert 0 < finished[0] < 4


def test_a_stop_between_directions_keeps_what_was_finished(tmp_path: Path, scalars: list[float]) -> None:
    machine = Machine()
    world = world_on(machine, tmp_path)
    look, looks = machine.now, [0]

    def stop_at_the_third_look() -> dict[str, bool | None]:
        looks[0] += 1
        world.stopped = looks[0] == 3  # before the turn, after one direction, after another
        return look()

    machine.now = stop_at_the_third_look  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        world.turn(world.task())
    assert world.told() == [*BEGIN, "compute"]
    assert world.store.progress.of("task-1") == scalars[:3]
    world.stopped = False
    world.turn(world.task(update=world.unchanged()))
    assert list(world.cloud.reports[0].scalars) == scalars
    assert world.cloud.reports[0].timing.segment_runs == RUNS
