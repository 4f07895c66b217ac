"""The Kotlin device on an emulated arm64 JVM takes part in a job of the Python service."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.emulated import Emulator
from tests.cloud_service.small_service import small_job, started
from tests.device_runtime.toy_bundle import open_toy_bundle, toy_examples
from tests.integration.jvm_device import JvmDevice
from tests.integration.test_devices_and_service import JOB, published
from tests.integration.test_jvm_device import MIXED, device, events_of

pytestmark = pytest.mark.emulator


def test_its_adapter_is_the_clouds_after_every_round(
    tmp_path: Path, jvm: JvmDevice, emulator: Emulator
) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    job = small_job(bundle, **JOB | MIXED | {"version_form": "mixed", "cohort_size": 1})
    service, where = started(bundle, tmp_path / "cloud", job)
    try:
        options = ("--predict", "w1 w2")
        with device(jvm.on(emulator), where.grpc, tmp_path, toy_examples(200, seed=7), *options) as kotlin:
            events = events_of(kotlin)
        cloud = published(service)
    finally:
        service.stop()
    assert len(set(cloud.values())) == job.rounds + 1  # every round changed the adapter
    versions = [event for event in events if event["event"] == "version"]
    assert {event["version"]: event["adapter_sha256"] for event in versions} == cloud
    assert {event["status"] for event in events if event["event"] == "report"} == {"OK"}
    assert {event["form"] for event in versions} > {"records", "delta"}
    assert events[-1]["label"] in bundle.class_names
