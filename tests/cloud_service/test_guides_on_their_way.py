"""Guides from sampling to stream: sent while they are sampled, at each device's level of compression."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_service import guide_stream
from cloud_service.artifacts import Artifacts
from cloud_service.directions import Float64, Guides
from cloud_service.plan import ClientTask, RoundPlan, RoundState, Step
from cloud_service.serve import ServeOptions, Service
from cloud_service.shelf import Shelf
from cloud_service.store import Store
from cloud_service.wire import WireError
from device_runtime.bundle import Bundle
from device_runtime.guides import decode
from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb
from tests.cloud_service.fake_device import FakeDevice, json_get, run_sessions
from tests.cloud_service.small_bundle import small_layout, write_bundle
from tests.cloud_service.small_service import QuadraticPublic, small_job, started
from tests.cloud_service.test_rounds import settings

LAYOUT = small_layout()
VALUES = np.random.default_rng(3).normal(size=LAYOUT.parameters).astype(np.float32)
GUIDES = Guides(b"b" * 32, LAYOUT.segments, float(np.linalg.norm(VALUES)), 1.0)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "bundle")


class Place:
    """A folder with a shelf; `reopen` is another process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reopen()

    def reopen(self) -> None:
        self.store = Store(f"sqlite:///{self.folder / 'a.db'}")
        self.artifacts = Artifacts(self.folder / "artifacts")
        self.shelf = Shelf(self.store, self.artifacts, LAYOUT)

    def put(self, *segments: int) -> None:
        for segment in segments:
            self.shelf.put(0, segment, VALUES[LAYOUT.segment_slice(segment)], 0)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    found.shelf.announce(0, GUIDES)
    return found


def plan_at(level: int, in_turn: bool = False) -> tuple[RoundPlan, ClientTask]:
    from cloud_service import estimators

    chosen = settings(estimator="zgr", active_segments=LAYOUT.segments, in_turn=in_turn)
    named = estimators.direction(chosen, GUIDES.at(level), LAYOUT, 1, 2)
    task = ClientTask("a", (Step(1, 8, (named,)),), level)
    return RoundPlan(0, 0, chosen, (task,), GUIDES, 7), task


def stream(place: Place, level: int, in_turn: bool = False, **start: int) -> Iterator[pb.GuideChunk | None]:
    return guide_stream.chunks(place.shelf, *plan_at(level, in_turn), pb.StreamGuidesRequest(**start))


@pytest.mark.parametrize("level", [0, 4])
def test_a_segment_is_sent_as_soon_as_it_is_sampled(place: Place, level: int) -> None:
    chunks = stream(place, level)
    assert next(chunks) is None
    assert next(chunks) is None
    place.put(0)
    first = next(chunks)
    assert first is not None
    assert (first.segment, first.queued, first.last) == (0, False, False)
    assert next(chunks) is None
    place.put(1, 2)
    second, third = list(chunks)
    assert second is not None
    assert third is not None
    assert [(each.segment, each.queued, each.last) for each in (second, third)] == [
        (1, False, False),
        (2, True, True),
    ]
    (received,) = place.shelf.received(0, [level]).values()
    for chunk in (first, second, third):
        span = LAYOUT.segment_slice(chunk.segment)
        assert np.array_equal(decode(chunk.encoding, chunk.data, span.stop - span.start), received[span])
    assert np.array_equal(received, VALUES) == (level == 0)


def test_in_turn_nothing_is_sent_before_all_is_sampled(place: Place) -> None:
    chunks = stream(place, 4, in_turn=True)
    place.put(0, 1)
    assert next(chunks) is None
    place.put(2)
    assert [chunk.segment for chunk in chunks if chunk is not None] == [0, 1, 2]


def test_another_process_sends_the_same_bytes(place: Place) -> None:
    place.put(0, 1, 2)
    before = list(stream(place, 4))
    again = VALUES.copy()
    place.reopen()
    assert list(stream(place, 4)) == before
    place.shelf.put(0, 0, -again[LAYOUT.segment_slice(0)], 0)  # sampled again: what was kept counts
    assert list(stream(place, 4)) == before
    with pytest.raises(WireError, match="start again at 0"):
        next(stream(place, 4, first_segment=3))


def test_a_guide_that_was_announced_goes_out_while_it_is_sampled(bundle: Bundle, tmp_path: Path) -> None:
    """Round 1 samples from its own version; its second segment waits until a device has the first."""
    gate, seen = threading.Event(), []

    class Gated(QuadraticPublic):
        def sampled(self, state: RoundState) -> Iterator[tuple[int, Float64]]:
            for segment, values in super().sampled(state):
                if state.version == 1 and segment == 1:
                    assert gate.wait(20)
                yield segment, values

    class Early(FakeDevice):
        def receive_guides(self, task: pb.Task) -> None:
            if task.round == 1:
                request = pb.StreamGuidesRequest(task_id=task.task_id)
                call = self.call("StreamGuides", request)
                seen.append(next(call).segment)
                gate.set()
                call.cancel()
            super().receive_guides(task)

    job = small_job(bundle, guide_staleness=0, rounds=3, cohort_size=1, guide_level=4)
    options = ServeOptions(data_dir=tmp_path / "run", grpc_port=0, http_port=0, operator_token="operator")
    service = Service(job, bundle, Gated(LAYOUT), options)
    where = service.start()
    try:
        device = Early(0, where.grpc, LAYOUT)
        device.session()
        assert seen == [0]
        assert device.version == 3
        facts = [json_get(f"{where.http}/v1/rounds/{number}", "operator")["guide"] for number in range(3)]
        assert [(each["staleness"], each["sampled_from"]) for each in facts] == [(0, 0), (0, 1), (0, 2)]
    finally:
        assert service.stop()


@pytest.mark.parametrize("changes", [{}, {"pipelined": False}, {"guide_level": 0}, {"guide_staleness": 0}])
def test_every_way_of_sending_gives_devices_the_clouds_adapter(
    bundle: Bundle, tmp_path: Path, changes: dict[str, Any]
) -> None:
    hashes = []
    for number in range(2):
        service, where = started(bundle, tmp_path / str(number), small_job(bundle, **changes))
        try:
            devices = [FakeDevice(number, where.grpc, LAYOUT) for number in range(3)]
            run_sessions(devices)
            assert len({device.hashes[4] for device in devices}) == 1
            hashes.append(devices[0].hashes)
        finally:
            assert service.stop()
    assert hashes[0] == hashes[1]  # nothing of it depends on when something happened


def test_slow_links_get_fewer_bits_at_once_and_still_the_same_adapter(tmp_path: Path) -> None:
    """Device 0's link falls to a tenth in round 3: its bits fall in round 4. Device 1's stays fast."""
    layout = Layout.build([(name, segment, (40, 50), 20) for segment, name in enumerate("abc")])
    bundle = write_bundle(tmp_path / "bundle", layout)
    job = small_job(bundle, rounds=7, cohort_size=2, guide_cosine=0.5)
    service, where = started(bundle, tmp_path / "run", job)
    try:
        devices = [FakeDevice(number, where.grpc, layout) for number in range(2)]
        for device in devices:
            device.segment_ms = [1.0, 1.0, 1.0]
        devices[0].rates = {0: 1e6, 3: 1e5}
        devices[1].rates = {0: 1e7}
        run_sessions(devices)
        rows = [json_get(f"{where.http}/v1/rounds/{number}", "operator") for number in range(7)]
        slow, fast = ([row["guide"]["levels"][device.client_id] for row in rows] for device in devices)
        assert slow[1:4] == fast[1:4]
        assert min(slow[4:]) > max(slow[1:4])  # coarser in the very next round
        assert fast[1:] == [fast[1]] * 6
        assert devices[0].hashes == devices[1].hashes
        aligned = rows[5]["alignment"]
        assert aligned[str(fast[5])] > aligned[str(slow[5])] >= 0.5
        # Either lacks the other's guide, which the record names: it comes with it.
        assert devices[0].forms[-3:] == ["unchanged", "records", "unchanged"]
    finally:
        assert service.stop()


def test_shared_directions_have_one_guide(bundle: Bundle, tmp_path: Path) -> None:
    job = small_job(bundle, rounds=3, cohort_size=2, directions="shared", guide_cosine=0.5)
    service, where = started(bundle, tmp_path, job)
    try:
        devices = [FakeDevice(number, where.grpc, LAYOUT) for number in range(2)]
        for device, rate in zip(devices, (400.0, 1e7), strict=True):
            device.segment_ms, device.rates = [1.0] * 3, {0: rate}
        run_sessions(devices)
        rows = [json_get(f"{where.http}/v1/rounds/{number}", "operator") for number in range(3)]
        assert all(len(set(row["guide"]["levels"].values())) == 1 for row in rows)
        assert devices[0].hashes == devices[1].hashes
    finally:
        assert service.stop()


def test_a_plan_names_what_each_task_gets() -> None:
    plan, task = plan_at(4)
    other = replace(task, client_id="b", guide_level=2)
    both = replace(plan, tasks=(task, other))
    assert both.levels() == (2, 4)
    assert both.guide_of(task) != both.guide_of(other)
    assert RoundPlan.from_bytes(both.to_bytes()).levels() == (2, 4)
