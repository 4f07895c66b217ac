"""What R8 keeps of the Kotlin device, renamed, in a real service's job: the rules for apps are enough."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.cloud_service.small_service import small_job, started
from tests.device_runtime.toy_bundle import open_toy_bundle, toy_examples
from tests.integration.jvm_device import ROOT, JvmDevice
from tests.integration.test_devices_and_service import JOB, published
from tests.integration.test_jvm_device import device, events_of

pytestmark = pytest.mark.ci
_ANDROID = ROOT / "device_runtime" / "android"
_APK = _ANDROID / "apk" / "target"


@pytest.fixture(scope="module")
def shrunk() -> JvmDevice:
    """The classes that R8 kept, the twin, and native libraries: nothing else is on the path."""
    kept = _APK / "embedded.jar"
    if not kept.exists():
        pytest.skip("R8 has not run in this checkout: scripts/android packs the demo")
    twin = next((_ANDROID / "twin" / "target").glob("twin-*.jar"))
    return JvmDevice(os.pathsep.join(map(str, (kept, _APK / "natives", twin))))


@pytest.mark.parametrize("form", ["record", "delta", "snapshot"])
def test_the_shrunk_device_ends_with_the_clouds_adapter(tmp_path: Path, shrunk: JvmDevice, form: str) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    momentum = {"momentum": 0.0} if form == "record" else {}
    settings = JOB | {"cohort_size": 1, "version_form": form} | momentum
    service, where = started(bundle, tmp_path / "cloud", small_job(bundle, **settings))
    try:
        with device(shrunk, where.grpc, tmp_path, toy_examples(100), "--predict", "w1 w2") as kotlin:
            events = events_of(kotlin)
        cloud = published(service)
    finally:
        service.stop()
    told = {event["version"]: event["adapter_sha256"] for event in events if event["event"] == "version"}
    assert told == cloud
    assert len(set(told.values())) == settings["rounds"] + 1  # every round changed the adapter
    assert {event["status"] for event in events if event["event"] == "report"} == {"OK"}
    assert events[-1]["label"] in bundle.class_names


def test_an_error_of_the_shrunk_device_still_says_what_to_do(tmp_path: Path, shrunk: JvmDevice) -> None:
    with device(shrunk, "127.0.0.1:1", tmp_path, toy_examples(40)) as kotlin:
        _, errors = kotlin.communicate(timeout=60)
    assert kotlin.returncode == 1
    # R8 renames the error's class, and leaves its text alone.
    assert re.match(
        r"\w+: no answer from 127\.0\.0\.1:1 .*check the address and that the service runs$", errors
    )
