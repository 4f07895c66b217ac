"""A Kotlin device on the JVM and two Python devices in one job of a real service, round by round."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from device_runtime.examples import Example
from device_runtime.guides import OF_VERSIONS
from device_runtime.identity import Identity
from device_runtime.store import Store
from protos import federation_pb2 as pb
from tests.cloud_service.small_service import small_job, started
from tests.device_runtime.toy_bundle import open_toy_bundle, toy_examples
from tests.integration.jvm_device import JvmDevice
from tests.integration.test_devices_and_service import GUIDED, JOB, Running, published

pytestmark = pytest.mark.ci
TIMEOUT_S = 120
MIXED = {"momentum": 0.0, "rounds": 7}
PREFIXES = {"estimator": "fedspzo", "active_segments": "all", "directions_per_task": 4, "per_prefix": 2}


@contextmanager
def device(
    jvm: JvmDevice, server: str, folder: Path, examples: list[Example], *options: str, **how: Any
) -> Iterator[subprocess.Popen[str]]:
    """A Kotlin device that does not outlive its test."""
    data = folder / "kotlin.tsv"
    data.write_text("text\tlabel\n" + "".join(f"{one.text}\t{one.label}\n" for one in examples))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = jvm.start(server, folder / "kotlin", data, "--max-scalars", "64", *options, **pipes, **how)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def events_of(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What a device told until it ended."""
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize(
    ("form", "job", "expected"),
    [
        ("record", {"momentum": 0.0}, "records"),
        ("delta", {}, "streamed"),  # of the head alone, which alone moves
        ("delta", GUIDED, "streamed"),
        ("snapshot", {}, "snapshot"),
        ("snapshot", GUIDED, "streamed"),
        ("mixed", MIXED, "records"),
        ("record", {"momentum": 0.0, "guide_weight": 0.0} | PREFIXES, "records"),
    ],
)
def test_all_adapters_are_the_clouds_after_every_round(
    tmp_path: Path, jvm: JvmDevice, form: str, job: dict[str, Any], expected: str
) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    # Enough for every device to have work in every round.
    settings = JOB | {"cohort_size": 3} | job | {"version_form": form}
    service, where = started(bundle, tmp_path / "cloud", small_job(bundle, **settings))
    try:
        with device(jvm, where.grpc, tmp_path, toy_examples(200, seed=7), "--predict", "w1 w2") as kotlin:
            python = [Running(tmp_path, where.grpc, number) for number in range(2)]
            events = events_of(kotlin)
        for running in python:
            running.join()
        cloud = published(service)
    finally:
        service.stop()
    assert len(set(cloud.values())) == settings["rounds"] + 1  # every round changed the adapter
    told = {event["version"]: event["adapter_sha256"] for event in events if event["event"] == "version"}
    assert [told, python[0].hashes, python[1].hashes] == [cloud] * 3
    statuses = {event["status"] for event in events if event["event"] == "report"}
    assert statuses == set(python[0].statuses) == set(python[1].statuses) == {"OK"}
    assert expected in {event["form"] for event in events if event["event"] == "version"}
    assert events[-1]["label"] in bundle.class_names
    with closing(Store(tmp_path / "kotlin")) as store:
        kept = [int(piece[0]) for pieces in store.state.guides.values() for piece in pieces.values()]
    assert set(kept) - set(OF_VERSIONS) == (
        set() if job.get("guide_weight") == 0.0 else {pb.GUIDE_ENCODING_CODED}
    )
    if expected == "streamed":
        of_version = pb.GUIDE_ENCODING_STEPS if form == "delta" else pb.GUIDE_ENCODING_WHOLE_STEPS
        assert of_version in kept
        assert expected in python[0].forms & python[1].forms


def test_records_bring_the_guides_of_rounds_in_which_others_were_asked(
    tmp_path: Path, jvm: JvmDevice
) -> None:
    bundle, rounds = open_toy_bundle(tmp_path / "bundle"), 8
    job = JOB | GUIDED | {
        "cohort_size": 1, "rounds": rounds, "momentum": 0.0, "scale": "none", "guide_level": 5,
        "guide_weight": 0.0, "version_form": "record", "evaluate_every_rounds": 0,
        "snapshot_every_rounds": 16,
    }  # fmt: skip
    service, where = started(bundle, tmp_path / "cloud", small_job(bundle, **job))
    try:
        with device(jvm, where.grpc, tmp_path, toy_examples(200, seed=7)) as kotlin:
            python = Running(tmp_path, where.grpc, 0)
            events = events_of(kotlin)
        python.join()
        cloud = published(service)
    finally:
        service.stop()
    told = [event for event in events if event["event"] == "version"]
    assert 2 <= len(told) <= rounds  # some versions were skipped
    assert {event["form"] for event in told[1:]} <= {"records", "unchanged"}
    assert all(event["adapter_sha256"] == cloud[event["version"]] for event in told)
    assert told[-1]["version"] == rounds
    assert "records" in python.forms
    assert "delta" not in python.forms


def test_a_label_outside_the_classes_and_a_long_text_are_counted(tmp_path: Path, jvm: JvmDevice) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    settings = JOB | {"cohort_size": 1, "rounds": 2}
    service, where = started(bundle, tmp_path / "cloud", small_job(bundle, **settings))
    odd = [Example("w1 w2", "sideways"), Example("w3 " * 33_334, "left")]
    identity = Identity.generate()
    with closing(Store(tmp_path / "kotlin")) as store:
        store.write_key(identity.pem())
    try:
        with device(jvm, where.grpc, tmp_path, [*toy_examples(100), *odd]) as kotlin:
            events = events_of(kotlin)
        cloud = published(service)
    finally:
        service.stop()
    reports = [event for event in events if event["event"] == "report"]
    assert {event["status"] for event in reports} == {"OK"}
    assert {(event["skipped_examples"], event["truncated_examples"]) for event in reports} == {(1, 1)}
    with closing(Store(tmp_path / "kotlin")) as store:  # a Python device could go on with it
        assert store.state.adapter_sha256 == cloud[2]
        assert set(store.state.disclosed) == {"0", "1"}
        assert store.read_key() == identity.pem()


def test_no_service_is_one_line_that_says_what_to_do(tmp_path: Path, jvm: JvmDevice) -> None:
    with device(jvm, "127.0.0.1:1", tmp_path, toy_examples(40)) as kotlin:
        output, errors = kotlin.communicate(timeout=TIMEOUT_S)
    assert kotlin.returncode == 1
    assert errors.startswith("ServerUnreachable: no answer from 127.0.0.1:1")
    assert errors.count("\n") == 1
    assert json.loads(output)["phase"] == "enroll"
    with closing(Store(tmp_path / "kotlin")) as store:
        pem = store.read_key()
    identity = Identity.from_pem(pem or b"")
    assert identity is not None  # a key of Kotlin's is one for Python
    assert identity.pem() == pem
