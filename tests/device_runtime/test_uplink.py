"""Scalars that go up while further directions run: which, when, how often, and what the account says."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from device_runtime import groups
from device_runtime.engine import Engine
from device_runtime.errors import (
    CooperLLMError,
    NotEnrolled,
    ScalarsMissing,
    ServerRefused,
    ServerUnreachable,
    TaskLost,
)
from device_runtime.local_update import Measurement
from device_runtime.uplink import is_worth_a_call
from protos import federation_pb2 as pb

from .slow_world import Orderly, land, slow_world, spans_of_parts
from .world import World, directions, finished, retry

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


def test_scalars_go_up_while_directions_run(world: World, expected: list[float]) -> None:
    world.turn(world.task(directions=directions(COUNT)))
    assert spans_of_parts(world) == [(0, 4), (4, 16)]
    (report,) = world.cloud.reports
    assert report.first_scalar == 16
    sent = [scalar for part in world.cloud.parts for scalar in part.scalars]
    assert [*sent, *report.scalars] == expected
    names = [span.name for span in report.timing.spans]
    assert names == ["check_in", "fetch", "fetch", "scalars_sent", "scalars_sent", "compute"]
    (told,) = [event for event in world.events if event.name == "report"]
    assert told.fields["scalars"] == COUNT


@pytest.mark.parametrize(
    ("failure", "parts"),
    [
        (ServerUnreachable("gone"), [(0, 4), (0, 16)]),
        (TaskLost("expired"), [(0, 4)]),
        (ServerRefused("never heard of such a call"), [(0, 4)]),
        (NotEnrolled("who?"), [(0, 4)]),
        (ValueError("the channel is closed"), [(0, 4)]),
    ],
)
def test_a_part_that_is_lost_is_no_error(
    world: World, expected: list[float], failure: Exception, parts: list[tuple[int, int]]
) -> None:
    world.cloud.part_acks = [failure, pb.ScalarsAck(received=16)]
    world.turn(world.task(directions=directions(COUNT)))
    assert spans_of_parts(world) == parts
    (report,) = world.cloud.reports
    first = 16 if len(parts) == 2 else 0
    assert (report.status, report.first_scalar) == (pb.REPORT_STATUS_OK, first)
    assert list(report.scalars) == expected[first:]


@pytest.mark.parametrize(("answers", "first"), [([0, 0], 0), ([2, 1000], 16), ([1000, 3], 3)])
def test_whatever_the_cloud_says_it_received(world: World, answers: list[int], first: int) -> None:
    world.cloud.part_acks = [pb.ScalarsAck(received=received) for received in answers]
    world.turn(world.task(directions=directions(COUNT)))
    assert len(world.cloud.parts) == 2
    assert world.cloud.reports[0].first_scalar == first
    assert len(world.cloud.reports[0].scalars) == COUNT - first


def test_no_part_waits_for_another_and_the_report_for_none(world: World, expected: list[float]) -> None:
    landed = threading.Event()
    send, seen = world.cloud.send_scalars, list[str]()

    def stuck(part: pb.Scalars) -> pb.ScalarsAck:
        ack = send(part)
        landed.wait(20)
        return ack

    class Busy(Engine):
        def measure(self, *arguments: Any) -> Measurement:
            seen.extend(t.name for t in threading.enumerate() if t.name == "uplink")
            return super().measure(*arguments)

    world.make_engine = Busy
    world.start()
    world.cloud.send_scalars = stuck  # type: ignore[method-assign]
    world.turn(world.task(directions=directions(COUNT)))
    landed.set()
    land()
    assert len(seen) == COUNT - 4
    assert spans_of_parts(world) == [(0, 4)]
    assert list(world.cloud.reports[0].scalars) == expected
    assert world.store.state.pending_report == ""


def test_a_report_whose_parts_are_gone_is_sent_whole_under_the_same_id(
    world: World, expected: list[float]
) -> None:
    world.cloud.acks = [ScalarsMissing("0 are here"), pb.Ack()]
    world.turn(world.task(directions=directions(COUNT)))
    rest, whole = world.cloud.reports
    assert (rest.first_scalar, whole.first_scalar) == (16, 0)
    assert rest.report_id == whole.report_id
    assert list(whole.scalars) == expected
    world.cloud.acks = [ScalarsMissing("0 are here")] * 2
    with pytest.raises(ServerRefused):
        world.turn(world.task(2, world.unchanged(), directions=directions(COUNT)))
    assert world.turn(finished(world.unchanged())).finished


def test_a_pending_report_is_cut_the_same_after_a_restart(world: World, expected: list[float]) -> None:
    world.cloud.acks = [ServerUnreachable("gone")]
    with pytest.raises(ServerUnreachable):
        world.turn(world.task(directions=directions(COUNT)))
    world.start()
    world.turn()
    first, second = world.cloud.reports
    assert first == second
    assert (second.first_scalar, list(second.scalars)) == (16, expected[16:])
    world.turn(retry())


def test_tasks_in_turn_and_evaluations_send_no_parts(world: World) -> None:
    wanted = directions(COUNT)
    wanted.in_turn = True
    world.turn(world.task(directions=wanted))
    world.turn(world.task(2, world.unchanged(), evaluate=pb.EvaluateTask()))
    world.turn(world.task(3, world.unchanged(), score_segments=pb.ScoreSegmentsTask(batch_examples=8)))
    assert not world.cloud.parts
    assert [report.first_scalar for report in world.cloud.reports] == [0, 0, 0]


def test_what_was_stopped_sends_nothing_more(tmp_path: Path) -> None:
    def stop(engine: Engine) -> None:
        world.stopped = True

    class Stopping(Orderly):
        def measure(self, *arguments: Any) -> Measurement:
            if self.measured == 15:
                stop(self)
            return super().measure(*arguments)

    world = slow_world(tmp_path, Stopping)
    with pytest.raises(CooperLLMError):
        world.turn(world.task(directions=directions(COUNT)))
    assert spans_of_parts(world) == [(0, 4)]
    assert len(world.store.progress.of("task-1")) == 16


def test_local_steps_and_their_scalars_in_one_list(tmp_path: Path) -> None:
    def two_steps() -> pb.DirectionsTask:
        task = directions(12)
        task.steps.append(directions(12, batch_seed=6).steps[0])
        task.steps[0].local_learning_rate = 0.01
        return task

    quiet = World(tmp_path / "quiet")
    quiet.turn(quiet.task(directions=two_steps()))
    world = slow_world(tmp_path / "slow")
    world.turn(world.task(directions=two_steps()))
    assert spans_of_parts(world) == [(0, 4), (4, 16)]
    sent = [scalar for part in world.cloud.parts for scalar in part.scalars]
    assert [*sent, *world.cloud.reports[0].scalars] == list(quiet.cloud.reports[0].scalars)


# --- the rule, and what it costs


def test_a_call_is_made_only_for_work_that_outlasts_it() -> None:
    assert is_worth_a_call(4, 0, 0.2, 0.1)
    assert not is_worth_a_call(4, 0, 0.1, 0.1)
    assert not is_worth_a_call(3, 0, 100.0, 0.1)


@pytest.mark.parametrize(
    ("scalars", "tried"),
    [(4, []), (8, [4]), (32, [4, 16]), (64, [4, 16]), (200, [4, 16, 64, 128, 192]), (1000, None)],
)
def test_parts_grow_until_they_are_full(scalars: int, tried: list[int] | None) -> None:
    found: list[int] = []
    for done in range(1, scalars):
        if is_worth_a_call(done, found[-1] if found else 0, 1.0, 0.1):
            found.append(done)
    assert found == tried if tried is not None else len(found) == 17


def test_a_task_of_64_scalars_costs_under_16_bytes_a_scalar(tmp_path: Path) -> None:
    """Under 5, in messages; what calls cost besides is counted on the wire, in the integration tests."""
    world = slow_world(tmp_path)
    reply = world.task(directions=directions(64))
    reply.task.task_id = "12-d-0123456789ab-0"  # as leases name them
    world.turn(reply)
    (report,) = world.cloud.reports
    parts_bytes = sum(part.ByteSize() for part in world.cloud.parts)
    assert spans_of_parts(world) == [(0, 4), (4, 16)]
    bare = pb.Report()
    bare.CopyFrom(report)
    bare.ClearField("scalars")
    bare.ClearField("first_scalar")
    cost_bytes = parts_bytes + report.ByteSize() - bare.ByteSize()
    assert 4 * 64 <= cost_bytes <= 5 * 64
