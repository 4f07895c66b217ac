"""A chain through the service: scores first, then stages; restarts at any moment change no bit of it."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_service import chain, reading
from cloud_service.artifacts import Artifacts
from cloud_service.conductor import Conductor
from cloud_service.federation import Federation
from cloud_service.holding import keep_job
from cloud_service.job import Job
from cloud_service.metrics import Metrics
from cloud_service.preparation import Preparation
from cloud_service.shelf import Shelf
from cloud_service.store import Store
from device_runtime.bundle import Bundle
from device_runtime.errors import OptionError
from protos import federation_pb2 as pb
from tests.cloud_service.fake_device import FakeDevice, json_get, run_sessions
from tests.cloud_service.small_bundle import chain_layout, write_bundle
from tests.cloud_service.small_service import QuadraticPublic, small_job, started
from tests.cloud_service.test_kill import disturbed

LAYOUT = chain_layout()
CHAIN: dict[str, Any] = {
    "estimator": "chainfed", "active_segments": "all", "chain_window": 1, "chain_global_weight": 0.0,
    "chain_threshold": 0.95, "rounds": 7, "evaluate_every_rounds": 1, "momentum": 0.9,
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "small", LAYOUT)


def run_job(address: str) -> list[FakeDevice]:
    devices = [FakeDevice(number, address, LAYOUT) for number in range(3)]
    run_sessions(devices)
    return devices


def test_scores_then_windows_then_end_to_end(bundle: Bundle, tmp_path: Path) -> None:
    service, where = started(bundle, tmp_path, small_job(bundle, **CHAIN))
    try:
        devices = run_job(where.grpc)
        found = json_get(where.http + "/v1/rounds", "operator")
        scoring = json_get(where.http + "/v1/rounds/0", "operator")
        job = json_get(where.http + "/v1/jobs", "operator")[0]
        request = urllib.request.Request(
            where.http + "/metrics", headers={"Authorization": "Bearer operator"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            text = response.read().decode()
    finally:
        assert service.stop()
    # Devices 0 and 2 score segment 0 with 0.96 and 0.88, mean 0.92: the chain starts there. 1 refuses.
    assert sorted(task["status"] for task in scoring["tasks"] if task["kind"] == "score_segments") == [
        "refused", "reported", "reported",
    ]  # fmt: skip
    assert scoring["diagnostics"]["segment_scores"] == pytest.approx([0.92, 0.84])
    assert scoring["stage"] is None
    stages = [(row["stage"]["segments"], row["stage"]["exit_segment"]) for row in found[1:7]]
    assert stages == [([0], 1)] * 2 + [([1], 0)] * 2 + [([0, 1], 0)] * 2
    assert [row["diagnostics"]["stage_ended"] for row in found[1:7]] == ["", "share", "", "share", "", ""]
    assert found[1]["stage"]["segment_scores"] == pytest.approx([0.92, 0.84])
    assert job["stage"] == found[6]["stage"]
    assert job["stage"]["start"] == 0
    assert "cooperllm_chain_stage 2.0" in text
    for device in devices:
        asked = [device.asked[number] for number in range(7)]
        assert asked[0].WhichOneof("kind") == "score_segments"
        sent = [(list(item.directions.active_segments), item.directions.exit_segment) for item in asked[1:]]
        assert sent == [([0], 1)] * 2 + [([1, 2], 0)] * 2 + [([0, 1, 2], 0)] * 2
        assert [device.exits[number] for number in range(8)] == [0, 1, 1, 0, 0, 0, 0, 0]
        assert device.hashes[0] == device.hashes[1]  # scores move nothing
        assert len(set(device.hashes.values())) == 7


def test_a_job_for_which_nobody_scores_fails_with_the_reason(bundle: Bundle, tmp_path: Path) -> None:
    service, where = started(bundle, tmp_path, small_job(bundle, **CHAIN, cohort_size=1))
    try:
        device = FakeDevice(1, where.grpc, LAYOUT)  # refuses
        device.enroll()
        while json_get(where.http + "/v1/jobs", "operator")[0]["status"] != "failed":
            device.step()
        assert "UNSUPPORTED_TASK update the app" in json_get(where.http + "/v1/jobs", "operator")[0]["detail"]
    finally:
        assert service.stop()


def test_a_bundle_without_the_branch_is_refused_before_anything_is_served(
    bundle: Bundle, tmp_path: Path
) -> None:
    job = small_job(bundle, **(CHAIN | {"chain_global_weight": 0.2}))
    with pytest.raises(OptionError, match="--adapter bottleneck"):
        started(bundle, tmp_path, job)


# --- under a fake clock, in one thread


class Direct(FakeDevice):
    """A device that calls the service's functions, whichever service stands behind them now."""

    def __init__(self, number: int, cloud: Cloud) -> None:
        super().__init__(number, "localhost:1", LAYOUT)
        self.cloud = cloud
        cloud.federation.enroll(pb.EnrollRequest(public_key=self.public_key, device_name=str(number)))

    def call(self, method: str, request: Any) -> Any:
        names = {"CheckIn": "check_in", "SendReport": "send_report", "StreamGuides": "stream_guides"}
        return getattr(self.cloud.federation, names[method])(self.client_id, request)

    def fetch(self, sha256: bytes) -> bytes:
        return self.cloud.artifacts.get(sha256.hex())

    def work(self) -> bool:
        """One task, where there is one."""
        reply = self.check_in()
        if reply.WhichOneof("answer") == "task":
            self.call("SendReport", self.result(reply.task))
        return reply.WhichOneof("answer") == "task"


class Cloud:
    """Everything of a service but its network; `restart` leaves nothing of it but its folder."""

    def __init__(self, bundle: Bundle, folder: Path, job: Job) -> None:
        self.bundle, self.folder, self.job = bundle, folder, job
        self.now_s = 0.0
        folder.mkdir()
        self._open()

    def _open(self) -> None:
        self.store = Store(f"sqlite:///{self.folder / 'cooperllm.db'}")
        self.artifacts = Artifacts(self.folder / "artifacts")
        keep_job(self.store, self.job, self.bundle)
        shelf = Shelf(self.store, self.artifacts, LAYOUT)
        self.federation = Federation(
            self.store,
            self.artifacts,
            self.job,
            LAYOUT,
            self.bundle.sha256,
            self.job.segments_of(self.bundle),
            Metrics(),
            shelf,
            clock_ms=lambda: int(self.now_s * 1000),
            schedule=chain.of_job(self.job, self.bundle),
        )
        preparation = Preparation(
            self.store,
            self.artifacts,
            self.job,
            LAYOUT,
            QuadraticPublic(LAYOUT),
            self.federation.metrics,
            shelf,
        )
        self.conductor = Conductor(
            self.federation, preparation, self.bundle.adapter, clock_s=lambda: self.now_s
        )

    def close(self) -> None:
        stop = threading.Event()
        stop.set()
        self.conductor.run(stop)
        self.store.close()

    def restart(self) -> None:
        self.close()
        self._open()

    def job_status(self) -> str:
        return reading.job_status(self.store)

    def conduct(self) -> None:
        """Lets the conductor do what it can now."""
        while self.conductor.step():
            pass

    def stages(self) -> list[Any]:
        return [(row["stage"], row["diagnostics"]) for row in reading.all_rounds(self.store)]


@pytest.fixture
def clouds(bundle: Bundle, tmp_path: Path) -> Iterator[Any]:
    opened: list[Cloud] = []

    def make(name: str, **changes: Any) -> Cloud:
        opened.append(Cloud(bundle, tmp_path / name, small_job(bundle, **(CHAIN | changes))))
        return opened[-1]

    yield make
    for cloud in opened:
        cloud.close()


def play(cloud: Cloud, restarts: bool) -> list[dict[int, str]]:
    devices = [Direct(number, cloud) for number in range(3)]
    for _ in range(10_000):
        cloud.conduct()
        for device in devices:
            if device.work() and restarts:
                cloud.restart()
        if cloud.job_status() == "finished":
            break
    for device in devices:
        device.step()
    return [device.hashes for device in devices]


def test_a_cloud_that_restarts_after_every_report_goes_on_at_the_same_stage(clouds: Any) -> None:
    changes = {"rounds": 12, "learning_rate": 0.4, "learning_rate_decay": "none", "directions_per_task": 32}
    steady, restless = clouds("steady", **changes), clouds("restless", **changes)
    undisturbed = play(steady, restarts=False)
    assert play(restless, restarts=True) == undisturbed
    assert len(set(undisturbed[0].values())) == 12  # 13 versions, the first two are the same adapter
    assert restless.stages() == steady.stages()
    numbers = [stage["stage"] for stage, _ in steady.stages()[1:12]]
    assert set(numbers) == {0, 1, 2}
    assert numbers == sorted(numbers)


def test_a_lost_score_is_refilled_and_one_that_is_not_blocks_nothing(clouds: Any) -> None:
    cloud = clouds("lost", cohort_size=2, lease_s=10.0, refill_wait_s=20.0, min_reports=1)
    lost, steady = Direct(0, cloud), Direct(2, cloud)
    for device in (lost, steady):
        device.check_in()
    cloud.conduct()
    assert lost.check_in().task.WhichOneof("kind") == "score_segments"  # and is never seen again
    while steady.work():
        pass
    newcomer = Direct(4, cloud)
    assert not newcomer.work()
    for _ in range(4):  # the cloud's own pauses count at most 5 s each
        cloud.now_s += 4.0
        cloud.conduct()
    assert newcomer.work()
    while cloud.job_status() == "running" and len(cloud.stages()) < 2:
        cloud.conduct()
    # Devices 2 and 4: the mean of 0.88 and 0.80.
    assert cloud.stages()[0][1]["segment_scores"][0] == pytest.approx(0.84)

    alone = clouds("alone", cohort_size=2, lease_s=10.0, refill_wait_s=5.0, min_reports=1)
    lost, steady = Direct(0, alone), Direct(2, alone)
    for device in (lost, steady):
        device.check_in()
    alone.conduct()
    while steady.work():
        pass
    for _ in range(10):
        alone.now_s += 4.0
        alone.conduct()
    while len(alone.stages()) < 2:
        alone.conduct()
    assert alone.stages()[0][1]["segment_scores"][0] == pytest.approx(0.88)


def test_a_client_that_discloses_too_little_to_score_is_not_counted_on(clouds: Any) -> None:
    cloud = clouds("budget", cohort_size=1)
    device = Direct(0, cloud)
    device.budget.max_scalars_per_round = 1  # there are two segments
    device.check_in()
    cloud.conduct()
    assert cloud.stages() == []
    assert reading.all_jobs(cloud.federation)[0]["usable_clients"] == 0
    device.budget.max_scalars_per_round = 2
    device.check_in()
    cloud.conduct()
    assert len(cloud.stages()) == 1


# --- killed for real


@pytest.mark.ci
def test_killed_in_the_middle_of_stages(bundle: Bundle, tmp_path: Path) -> None:
    service, where = started(bundle, tmp_path / "undisturbed", small_job(bundle, **CHAIN))
    try:
        run_job(where.grpc)
        rows = json_get(where.http + "/v1/versions", "operator")
    finally:
        service.stop()
    undisturbed = {row["version"]: row["adapter_sha256"] for row in rows}
    assert disturbed(bundle, tmp_path / "run", [60, 110], CHAIN) == undisturbed
