"""What a Kotlin device meets that is wrong in a real job: one line that says what to do, nothing lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_service.serve import Addresses, Service
from device_runtime.bundle import Bundle
from tests.cloud_service.small_service import small_job, started
from tests.device_runtime.toy_bundle import open_toy_bundle, toy_examples, write_toy_bundle
from tests.integration.jvm_device import JvmDevice
from tests.integration.test_devices_and_service import JOB, published
from tests.integration.test_jvm_device import TIMEOUT_S, device, events_of

pytestmark = pytest.mark.ci
ROUNDS = 2


@contextmanager
def serving(bundle: Bundle, folder: Path, **changes: object) -> Iterator[tuple[Service, Addresses]]:
    """A service with a short job for one device."""
    settings = JOB | {"cohort_size": 1, "rounds": ROUNDS} | changes
    service, where = started(bundle, folder / "cloud", small_job(bundle, **settings))
    try:
        yield service, where
    finally:
        service.stop()


def refused(process: subprocess.Popen[str]) -> str:
    """The one line with which a device gives up; what ExecuTorch itself logs is not its own."""
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    (line,) = [line for line in errors.splitlines() if not line.startswith("executorch: ")]
    return line


def with_files_up_to(limit_bytes: int, jvm: JvmDevice, folder: Path) -> JvmDevice:
    """Stands for a full disk: a write beyond the limit fails. No preexec_fn: gRPC logs in a forked child."""
    launcher = folder / "java"
    launcher.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec prlimit --fsize={limit_bytes} '{jvm.java}' \"$@\"\n")
    launcher.chmod(0o755)
    return replace(jvm, java=str(launcher))


def test_a_full_disk_is_told_and_with_space_the_job_ends(tmp_path: Path, jvm: JvmDevice) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    limited = with_files_up_to(bundle.program_path.stat().st_size // 2, jvm, tmp_path)
    with serving(bundle, tmp_path) as (service, where):
        with device(limited, where.grpc, tmp_path, toy_examples(100)) as kotlin:
            said = refused(kotlin)
        assert said.startswith("StoreFull: no space left to write ")
        assert "free some and start again" in said
        with device(jvm, where.grpc, tmp_path, toy_examples(100)) as kotlin:
            events = events_of(kotlin)
        cloud = published(service)
    assert events[-1]["adapter_sha256"] == cloud[ROUNDS]


def test_a_program_that_is_none_is_told_to_whoever_runs_the_device(tmp_path: Path, jvm: JvmDevice) -> None:
    """The bundle is whole and of this format; its program was made by something else."""
    folder = write_toy_bundle(tmp_path / "bundle", program=b"no program of this runtime" * 50)
    with serving(Bundle.open(folder), tmp_path) as (service, where):
        with device(jvm, where.grpc, tmp_path, toy_examples(100)) as kotlin:
            said = refused(kotlin)
        assert len(published(service)) == 1
    assert said.startswith("ProgramError: program.pte cannot be loaded or run (")
    assert said.endswith("export the bundle with the ExecuTorch of this release")


def test_an_empty_source_waits_and_with_examples_the_job_ends(tmp_path: Path, jvm: JvmDevice) -> None:
    """The cloud gives no work to a device that has nothing to do it on."""
    bundle = open_toy_bundle(tmp_path / "bundle")
    with serving(bundle, tmp_path) as (service, where):
        with device(jvm, where.grpc, tmp_path, []) as kotlin:
            assert kotlin.stdout is not None
            told = [json.loads(kotlin.stdout.readline()) for _ in range(5)]
        assert [event.get("phase", event["event"]) for event in told] == ["enroll", *["check_in", "wait"] * 2]
        with device(jvm, where.grpc, tmp_path, toy_examples(100)) as kotlin:
            events = events_of(kotlin)
        cloud = published(service)
    assert events[-1]["adapter_sha256"] == cloud[ROUNDS]
