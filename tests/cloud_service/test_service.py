"""The whole service on loopback: real gRPC, HTTP and SQLite, devices with a quadratic loss instead of a
model.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cloud_service.serve import Addresses, Service
from device_runtime.bundle import Bundle
from device_runtime.errors import OptionError, PortInUse, StoreInUse
from protos import federation_pb2 as pb
from tests.cloud_service.fake_device import FakeDevice, json_get, run_sessions
from tests.cloud_service.small_bundle import small_layout, write_bundle
from tests.cloud_service.small_service import small_job, started

LAYOUT = small_layout()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "small")


def run_job(service: Service, where: Addresses, devices: int = 3) -> list[FakeDevice]:
    """Lets devices work until the job has finished."""
    found = [FakeDevice(number, where.grpc, LAYOUT) for number in range(devices)]
    run_sessions(found)
    return found


@pytest.fixture
def finished(bundle: Bundle, tmp_path: Path) -> Iterator[tuple[list[FakeDevice], Addresses, Path]]:
    service, where = started(bundle, tmp_path, small_job(bundle))
    yield run_job(service, where), where, tmp_path
    assert service.stop()


@pytest.fixture
def waiting(bundle: Bundle, tmp_path: Path) -> Iterator[tuple[Addresses, Path]]:
    """A service whose first round is out to one device's key (number 0)."""
    service, where = started(bundle, tmp_path, small_job(bundle, cohort_size=1, evaluate_every_rounds=0))
    yield where, tmp_path
    assert service.stop()


def test_operators_see_how_a_guide_went_out(finished: tuple[list[FakeDevice], Addresses, Path]) -> None:
    _, where, _ = finished
    found = json_get(where.http + "/v1/rounds/3", "operator")
    asked = [task for task in found["tasks"] if task["kind"] == "directions"]
    sizes = {
        level: sum(item["size_bytes"] for item in found["guide_segments"] if item["level"] == level)
        for level in {task["guide_level"] for task in asked}
    }
    assert len(asked) == 3
    assert found["traffic_bytes"]["guides"] > sum(sizes[task["guide_level"]] for task in asked) > 0
    assert all([sent["segment"] for sent in task["guide_sent"]] == [0, 1, 2] for task in asked)
    assert found["guide_cosines"]["0"] == 1.0
    assert all(0.0 < found["guide_cosines"][str(task["guide_level"])] <= 1.0 for task in asked)


def test_devices_and_cloud_agree_on_every_version(finished: tuple[list[FakeDevice], Addresses, Path]) -> None:
    devices, where, _ = finished
    versions = {
        row["version"]: row["adapter_sha256"] for row in json_get(where.http + "/v1/versions", "operator")
    }
    assert sorted(versions) == [0, 1, 2, 3, 4]
    for device in devices:
        assert device.hashes == versions
    assert len(set(versions.values())) == 5


def test_operators_see_rounds(finished: tuple[list[FakeDevice], Addresses, Path]) -> None:
    devices, where, _ = finished
    job = json_get(where.http + "/v1/jobs", "operator")[0]
    assert (job["status"], job["version"], job["clients"]) == ("finished", 4, 3)
    found = json_get(where.http + "/v1/rounds/2", "operator")
    assert found["status"] == "closed"
    assert found["diagnostics"]["reports"] == 3
    assert found["device_evaluation"]["count"] == 12
    assert found["evaluation"]["count"] == 2
    assert {span["name"] for report in found["reports"] for span in report["spans"]} == {"compute"}
    assert {report["client_id"] for report in found["reports"]} == {device.client_id for device in devices}
    last = json_get(where.http + "/v1/rounds/4", "operator")
    assert [task["kind"] for task in last["tasks"]] == ["evaluate"] * 3


@pytest.mark.parametrize("form", ["record", "delta", "snapshot", "mixed"])
def test_every_form_gives_the_same_adapter(bundle: Bundle, tmp_path: Path, form: str) -> None:
    service, where = started(bundle, tmp_path, small_job(bundle, version_form=form))
    try:
        devices = run_job(service, where)
        versions = {
            row["version"]: row["adapter_sha256"] for row in json_get(where.http + "/v1/versions", "operator")
        }
    finally:
        assert service.stop()
    assert all(device.hashes == versions for device in devices)
    used = {name for device in devices for name in device.forms[1:]} - {"unchanged"}
    expected = {"record": {"records"}, "delta": {"delta"}, "snapshot": {"snapshot"}}
    assert used == expected.get(form, {"records", "delta", "snapshot"})


def test_a_device_that_was_away_catches_up(bundle: Bundle, tmp_path: Path) -> None:
    for form in ("record", "delta"):
        job = small_job(bundle, cohort_size=1, estimator="isotropic", version_form=form, lease_s=0.5, seed=9)
        service, where = started(bundle, tmp_path / form, job)
        try:
            away = FakeDevice(7, where.grpc, LAYOUT)
            away.enroll()
            away.step()
            away.step()  # evaluated and measured at version 0; the others do the rest
            other = FakeDevice(8, where.grpc, LAYOUT)
            other.session()
            away.session()
            assert away.version == 4
            assert away.hashes[4] == other.hashes[4]
        finally:
            assert service.stop()


def test_a_device_that_was_not_asked_gets_the_guides_that_records_name(
    bundle: Bundle, tmp_path: Path
) -> None:
    job = small_job(
        bundle, rounds=8, cohort_size=1, estimator="zgr", momentum=0.0, scale="none", guide_level=5,
        version_form="record", seed=9, evaluate_every_rounds=0, snapshot_every_rounds=16, guide_weight=0.0,
    )  # fmt: skip
    service, where = started(bundle, tmp_path / "run", job)
    try:
        devices = [FakeDevice(number, where.grpc, LAYOUT) for number in range(2)]
        run_sessions(devices)
        assert devices[0].hashes[8] == devices[1].hashes[8]
        for device in devices:
            assert set(device.forms[1:]) <= {"records", "unchanged"}
            named = {guide.sha256 for task in device.asked.values() for guide in task.directions.guides}
            assert named < set(device.guides)  # the others came with records
    finally:
        assert service.stop()


def get(url: str, headers: dict[str, str]) -> tuple[int, bytes, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
            return response.status, response.read(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def test_artifacts_by_range(bundle: Bundle, waiting: tuple[Addresses, Path]) -> None:
    where, _ = waiting
    device = FakeDevice(0, where.grpc, LAYOUT)
    device.enroll()
    path = f"/v1/artifacts/{bundle.sha256}"
    whole = (bundle.folder / "manifest.json").read_bytes()
    headers = device.headers(path)
    assert get(where.http + path, headers)[:2] == (200, whole)
    status, data, sent = get(where.http + path, headers | {"Range": "bytes=100-"})
    assert (status, data) == (206, whole[100:])
    assert sent["Content-Range"] == f"bytes 100-{len(whole) - 1}/{len(whole)}"
    assert get(where.http + path, headers | {"Range": "bytes=5-9"})[:2] == (206, whole[5:10])
    assert get(where.http + path, headers | {"Range": f"bytes={len(whole)}-"})[0] == 416
    other = FakeDevice(1, where.grpc, LAYOUT)  # never enrolled
    for wrong in ({}, other.headers(path), device.headers(path + "x"), {"Authorization": "Bearer guess"}):
        assert get(where.http + path, wrong)[0] == 401
    assert get(where.http + path, {"Authorization": "Bearer operator"})[0] == 200
    for name in ("0" * 64, "..%2f..%2foperator-token", "x"):
        assert get(f"{where.http}/v1/artifacts/{name}", {"Authorization": "Bearer operator"})[0] == 404


def test_who_may_read_what(waiting: tuple[Addresses, Path]) -> None:
    where, _ = waiting
    for path in ("/v1/jobs", "/v1/rounds", "/v1/rounds/0", "/v1/versions", "/metrics"):
        assert get(where.http + path, {})[0] == 401
    assert get(where.http + "/healthz", {})[0] == 200
    assert get(where.http + "/v1/rounds/77", {"Authorization": "Bearer operator"})[0] == 404
    status, text, _ = get(where.http + "/metrics", {"Authorization": "Bearer operator"})
    assert status == 200
    assert b"cooperllm_adapter_version" in text


def task_of(device: FakeDevice) -> pb.Task:
    end_s = time.monotonic() + 10
    while time.monotonic() < end_s:
        reply = device.check_in()
        if reply.WhichOneof("answer") == "task":
            return reply.task
        time.sleep(0.02)
    raise AssertionError("no task came")


def code(action: Any) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        action()
    return str(caught.value.code().name)


def test_statuses_of_calls(waiting: tuple[Addresses, Path]) -> None:
    where, _ = waiting
    device, other = FakeDevice(0, where.grpc, LAYOUT), FakeDevice(1, where.grpc, LAYOUT)
    assert code(device.check_in) == "UNAUTHENTICATED"
    assert device.enroll() == device.enroll()
    other.enroll()
    task = task_of(device)
    assert task_of(device).task_id == task.task_id
    assert (
        code(lambda: other.call("StreamGuides", pb.StreamGuidesRequest(task_id=task.task_id)).next())
        == "NOT_FOUND"
    )
    report = device.result(task)
    assert code(lambda: other.call("SendReport", report)) == "NOT_FOUND"
    device.time_ms = lambda: int(time.time() * 1000) - 400_000
    assert code(device.check_in) == "UNAUTHENTICATED"
    device.time_ms = lambda: int(time.time() * 1000)
    wrong = pb.Report()
    wrong.CopyFrom(report)
    wrong.adapter_sha256 = b"\x00" * 32
    assert code(lambda: device.call("SendReport", wrong)) == "FAILED_PRECONDITION"
    wrong.CopyFrom(report)
    wrong.scalars.append(1.0)
    assert code(lambda: device.call("SendReport", wrong)) == "INVALID_ARGUMENT"
    wrong.detail = "x" * (5 << 20)
    assert code(lambda: device.call("SendReport", wrong)) == "RESOURCE_EXHAUSTED"
    assert not device.call("SendReport", report).duplicate
    assert device.call("SendReport", report).duplicate
    report.report_id = "another"
    assert code(lambda: device.call("SendReport", report)) in ("NOT_FOUND", "DEADLINE_EXCEEDED")


def test_a_stream_of_guides_resumes_at_any_byte(waiting: tuple[Addresses, Path]) -> None:
    where, _ = waiting
    device = FakeDevice(0, where.grpc, LAYOUT)
    device.enroll()
    task = task_of(device)
    whole = list(device.call("StreamGuides", pb.StreamGuidesRequest(task_id=task.task_id)))
    assert [(chunk.segment, chunk.last) for chunk in whole] == [(0, False), (1, False), (2, True)]

    def from_byte(segment: int, byte: int, guide: int = 0) -> list[pb.GuideChunk]:
        start = {"first_segment": segment, "first_byte": byte, "first_guide": guide}
        return list(device.call("StreamGuides", pb.StreamGuidesRequest(task_id=task.task_id, **start)))

    for number, chunk in enumerate(whole):
        for byte in (0, 1, len(chunk.data) - 1, len(chunk.data)):
            again = from_byte(number, byte)
            assert b"".join(item.data for item in again) == (
                chunk.data[byte:] + b"".join(item.data for item in whole[number + 1 :])
            )
            assert [item.segment for item in again] == [
                item.segment for item in whole[number:] if item is not chunk or byte < len(chunk.data)
            ]
    for wrong in ((3, 0, 0), (0, 1 << 40, 0), (0, 0, 1)):
        assert code(lambda wrong=wrong: from_byte(*wrong)) == "OUT_OF_RANGE"


def test_an_enrollment_token(bundle: Bundle, tmp_path: Path) -> None:
    service, where = started(bundle, tmp_path, small_job(bundle), enrollment_token="secret")
    try:
        assert code(FakeDevice(0, where.grpc, LAYOUT).enroll) == "PERMISSION_DENIED"
    finally:
        assert service.stop()


def test_a_lost_device_is_refilled(bundle: Bundle, tmp_path: Path) -> None:
    job = small_job(bundle, cohort_size=2, rounds=2, lease_s=0.6, refill_wait_s=60.0, evaluate_every_rounds=0)
    service, where = started(bundle, tmp_path, job)
    try:
        lost, steady = FakeDevice(0, where.grpc, LAYOUT), FakeDevice(1, where.grpc, LAYOUT)
        lost.enroll()
        steady.enroll()
        lost.check_in()
        steady.check_in()
        report = lost.result(task_of(lost))  # and is never seen again, until the end
        run_job_with = [steady, FakeDevice(2, where.grpc, LAYOUT)]
        run_sessions(run_job_with)
        first = json_get(where.http + "/v1/rounds/0", "operator")
        assert sorted(task["status"] for task in first["tasks"]) == ["replaced", "reported", "reported"]
        assert first["diagnostics"]["reports"] == 2
        assert code(lambda: lost.call("SendReport", report)) == "DEADLINE_EXCEEDED"
        lost.session()
        assert lost.hashes[2] == steady.hashes[2]
    finally:
        assert service.stop()


def test_without_a_refill_the_round_closes_with_those_it_has(bundle: Bundle, tmp_path: Path) -> None:
    job = small_job(bundle, cohort_size=2, rounds=2, lease_s=0.6, refill_wait_s=0.1, evaluate_every_rounds=0)
    service, where = started(bundle, tmp_path, job)
    try:
        lost, steady = FakeDevice(0, where.grpc, LAYOUT), FakeDevice(1, where.grpc, LAYOUT)
        for device in (lost, steady):
            device.enroll()
            device.check_in()
        steady.session()
        first, second = (json_get(f"{where.http}/v1/rounds/{number}", "operator") for number in (0, 1))
        assert first["diagnostics"]["reports"] == 1
        assert [task["slot"] for task in second["tasks"]] == [
            steady.client_id
        ]  # no round counts on the lost one
    finally:
        assert service.stop()


def test_a_job_that_no_device_can_do_fails_with_its_reason(bundle: Bundle, tmp_path: Path) -> None:
    service, where = started(bundle, tmp_path, small_job(bundle, cohort_size=1, evaluate_every_rounds=0))
    try:
        device = FakeDevice(0, where.grpc, LAYOUT)
        device.enroll()
        task = task_of(device)
        device.call(
            "SendReport",
            pb.Report(
                task_id=task.task_id,
                report_id="r",
                status=pb.REPORT_STATUS_DIRECTION_BELOW_GRID,
                detail="use epsilon 1",
            ),
        )
        end_s = time.monotonic() + 10
        while json_get(where.http + "/v1/jobs", "operator")[0]["status"] != "failed":
            assert time.monotonic() < end_s
            time.sleep(0.05)
        assert (
            "DIRECTION_BELOW_GRID use epsilon 1" in json_get(where.http + "/v1/jobs", "operator")[0]["detail"]
        )
        assert get(where.http + "/readyz", {})[0] == 503
    finally:
        assert service.stop()


def test_what_stops_a_start_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    service, where = started(bundle, tmp_path / "a", small_job(bundle))
    try:
        job = small_job(bundle)
        with pytest.raises(StoreInUse, match="--data-dir"):
            started(bundle, tmp_path / "a", job)
        ports = {"grpc": int(where.grpc.rpartition(":")[2]), "http": int(where.http.rpartition(":")[2])}
        with pytest.raises(PortInUse, match="--grpc-port"):
            started(bundle, tmp_path / "b", job, grpc_port=ports["grpc"])
        with pytest.raises(PortInUse, match="--http-port"):
            started(bundle, tmp_path / "b", job, http_port=ports["http"])
        with pytest.raises(OptionError, match="--database"):
            started(bundle, tmp_path / "b", job, database="nonsense")
    finally:
        assert service.stop()
    with pytest.raises(OptionError, match="another seed"):
        started(bundle, tmp_path / "a", small_job(bundle, seed=6))
    service, _ = started(bundle, tmp_path / "a", small_job(bundle, lease_s=31.0))
    assert service.stop()
