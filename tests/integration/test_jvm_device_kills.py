"""The Kotlin device is killed at random moments and in every phase: nothing is lost or half written."""

from __future__ import annotations

import json
import random
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from device_runtime.durable import read_sealed
from device_runtime.store import Store
from protos import federation_pb2 as pb
from tests.cloud_service.small_service import small_job, started
from tests.device_runtime.toy_bundle import open_toy_bundle, toy_examples
from tests.integration.jvm_device import JvmDevice
from tests.integration.test_devices_and_service import JOB, published
from tests.integration.test_jvm_device import device, events_of

pytestmark = pytest.mark.long
KILLS = 20
PHASES = ("enroll", "check_in", "fetch", "version", "guides", "compute", "report")


class Left(NamedTuple):
    """What a killed process leaves of the task under way, and of the one it had finished."""

    task_id: str
    scalars: list[float]
    pending: pb.Report | None


def left_by(folder: Path) -> Left:
    """Opens a device's folder as the next process does; raises where something is half written."""
    for name in ("key", "key.copy", "state", "state.copy"):
        path = folder / name
        assert not path.exists() or read_sealed(path) is not None, name
    with closing(Store(folder)) as store:
        state = store.state
        assert not state.adapter_sha256 or store.read_adapter() is not None
        progress = (folder / "progress").read_text() if (folder / "progress").exists() else ""
        task_id = progress.split('"task_id":')[1].split('"')[1] if '"task_id":' in progress else ""
        scalars = store.progress.of(task_id) if task_id else []
        pending = bytes.fromhex(state.pending_report)
        return Left(task_id, scalars, pb.Report.FromString(pending) if pending else None)


def is_half_done(line: str) -> bool:
    """Whether a device tells that some of a task's directions are written down, and others are not."""
    event = json.loads(line)
    return 0 < event.get("directions_done", 0) < event.get("directions", 0)


def test_a_kill_at_any_moment_loses_no_finished_direction(tmp_path: Path, jvm: JvmDevice) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    settings = JOB | {"cohort_size": 1, "rounds": 40, "estimator": "isotropic", "active_segments": "all"}
    settings |= {"directions_per_task": 60, "batch_examples": 64, "scale": "none", "lease_s": 60.0}
    service, where = started(bundle, tmp_path / "cloud", small_job(bundle, **settings))
    moments, before, inside = random.Random(5), Left("", [], None), 0
    try:
        for number in range(KILLS):
            with device(jvm, where.grpc, tmp_path, toy_examples(200)) as kotlin:
                assert kotlin.stdout is not None
                if number % 2:
                    assert any(map(is_half_done, kotlin.stdout))  # reads no further than there
                    time.sleep(moments.uniform(0.0, 0.02))
                else:
                    kotlin.stdout.readline()
                    time.sleep(moments.uniform(0.0, 1.0))
            after = left_by(tmp_path / "kotlin")
            inside += bool(after.scalars)
            if before.task_id and before.task_id == after.task_id:
                assert after.scalars[: len(before.scalars)] == before.scalars
            if before.task_id and after.pending is not None and after.pending.task_id == before.task_id:
                assert list(after.pending.scalars)[: len(before.scalars)] == before.scalars
            before = after
        with device(jvm, where.grpc, tmp_path, toy_examples(200)) as kotlin:
            events = events_of(kotlin)
        cloud = published(service)
    finally:
        service.stop()
    assert inside >= KILLS // 4  # that many kills met a task that was half done
    assert {event["status"] for event in events if event["event"] == "report"} <= {"OK"}
    assert events[-1]["adapter_sha256"] == cloud[max(cloud)]


def test_a_kill_in_every_phase_leaves_a_device_that_goes_on(tmp_path: Path, jvm: JvmDevice) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    settings = JOB | {"cohort_size": 1, "rounds": 2 * len(PHASES), "lease_s": 60.0}
    service, where = started(bundle, tmp_path / "cloud", small_job(bundle, **settings))
    try:
        for phase in PHASES:
            with device(jvm, where.grpc, tmp_path, toy_examples(200)) as kotlin:
                assert kotlin.stdout is not None
                told = (json.loads(line).get("phase") for line in kotlin.stdout)
                assert phase in told  # reads no further than there
                kotlin.kill()
            left_by(tmp_path / "kotlin")
        with device(jvm, where.grpc, tmp_path, toy_examples(200)) as kotlin:
            events = events_of(kotlin)
        cloud = published(service)
    finally:
        service.stop()
    assert {event["status"] for event in events if event["event"] == "report"} == {"OK"}
    assert events[-1]["adapter_sha256"] == cloud[2 * len(PHASES)]
