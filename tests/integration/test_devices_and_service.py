"""Real devices on the real core against the real service; the toy bundle, public data without a model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from cloud_service.serve import Service
from cloud_service.store import versions
from device_runtime.budget import Budget
from device_runtime.device import Device
from device_runtime.journal import Event
from tests.cloud_service.small_service import small_job, started
from tests.device_runtime.toy_bundle import open_toy_bundle, toy_examples

ROOT = Path(__file__).parents[2]
JOB: dict[str, Any] = {
    "rounds": 4, "cohort_size": 2, "directions_per_task": 2, "batch_examples": 8, "epsilon": 0.01,
    "retry_min_ms": 10, "retry_max_ms": 30, "snapshot_every_rounds": 3, "seed": 3,
}  # fmt: skip

GUIDED: dict[str, Any] = {"estimator": "zgr", "active_segments": "all"}


class Running:
    """A device in a thread, and the hash of every version that it held."""

    def __init__(self, folder: Path, server: str, number: int) -> None:
        self.hashes: dict[int, str] = {}
        self.forms: set[str] = set()
        self.statuses: list[str] = []
        self.failure: BaseException | None = None
        self.device = Device(
            server=server, store=folder / f"device-{number}", examples=toy_examples(200, seed=number),
            budget=Budget(64), on_event=self._listen,
        )  # fmt: skip
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with self.device:
                self.device.run_until_finished()
        except BaseException as error:
            self.failure = error

    def _listen(self, event: Event) -> None:
        if event.name == "version":
            self.hashes[int(str(event.fields["version"]))] = str(event.fields["adapter_sha256"])
            self.forms.add(str(event.fields["form"]))
        if event.name == "report":
            self.statuses.append(f"{event.fields['status']} {event.fields['detail']}".strip())

    def join(self) -> None:
        self.thread.join(60)
        assert not self.thread.is_alive()
        assert self.failure is None


def published(service: Service) -> dict[int, str]:
    with service.store.transaction() as connection:
        rows = connection.execute(sa.select(versions.c.number, versions.c.adapter_sha256)).all()
    return {row.number: row.adapter_sha256 for row in rows}


@pytest.mark.parametrize(
    ("form", "job", "expected"),
    [
        ("record", {"momentum": 0.0}, "records"),
        ("delta", {}, "delta"),
        ("snapshot", {}, "snapshot"),
        ("delta", GUIDED, "streamed"),
        ("snapshot", GUIDED, "streamed"),
        ("mixed", GUIDED | {"rounds": 7}, "streamed"),
        ("delta", {"estimator": "zgr"}, "streamed"),  # of the head alone, which alone moves
        ("mixed", {"momentum": 0.0, "rounds": 7}, "records"),
        ("auto", {"estimator": "isotropic", "momentum": 0.0, "scale": "none"}, "unchanged"),
        (
            "record",
            {
                "estimator": "fedspzo",
                "active_segments": "all",
                "momentum": 0.0,
                "directions_per_task": 4,
                "per_prefix": 2,
                "guide_weight": 0.0,
            },
            "records",
        ),
    ],
)
def test_every_device_holds_the_clouds_adapter_after_every_round(
    tmp_path: Path, form: str, job: dict[str, Any], expected: str
) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    settings = JOB | job | {"version_form": form}
    service, where = started(bundle, tmp_path / "cloud", small_job(bundle, **settings))
    try:
        devices = [Running(tmp_path, where.grpc, number) for number in range(2)]
        for running in devices:
            running.join()
        cloud = published(service)
    finally:
        service.stop()
    assert len(set(cloud.values())) == settings["rounds"] + 1
    for running in devices:
        assert set(running.statuses) == {"OK"}
        assert running.hashes == cloud
        assert expected in running.forms


def device_process(
    folder: Path, server: str, number: int, lines: list[str] | None = None
) -> subprocess.Popen[str]:
    data = folder / f"data-{number}.tsv"
    given = lines or [f"{e.text}\t{e.label}" for e in toy_examples(200, seed=number)]
    data.write_text("text\tlabel\n" + "\n".join(given) + "\n")
    command = [sys.executable, "-m", "cooperllm", "device", "--server", server, "--data", str(data)]
    command += ["--state", str(folder / f"device-{number}"), "--until-finished", "--format", "json"]
    command += ["--max-scalars", "64"]  # 1 % of the toy's parameters is one
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_a_device_that_is_killed_comes_back_and_catches_up(tmp_path: Path) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    settings = JOB | {"rounds": 6, "lease_s": 3.0, "refill_wait_s": 0.5}
    service, where = started(bundle, tmp_path / "cloud", small_job(bundle, **settings))
    try:
        victim = device_process(tmp_path, where.grpc, 1)
        other = Running(tmp_path, where.grpc, 0)
        assert victim.stdout is not None
        for line in victim.stdout:
            if '"phase": "compute"' in line:
                break
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        time.sleep(4.0)  # its lease ends, and the round without it
        back = device_process(tmp_path, where.grpc, 1)
        output, errors = back.communicate(timeout=120)
        other.join()
        cloud = published(service)
    finally:
        service.stop()
    assert back.returncode == 0, errors
    assert other.hashes[max(cloud)] == cloud[max(cloud)]
    assert cloud[max(cloud)] in output.splitlines()[-1]


def test_an_unknown_label_in_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    service, where = started(bundle, tmp_path / "cloud", small_job(bundle, **JOB | {"cohort_size": 1}))
    try:
        lines = [f"{e.text}\t{e.label}" for e in toy_examples(40)]
        lines[6] = "w1 w2\tsideways"
        _, errors = (process := device_process(tmp_path, where.grpc, 5, lines)).communicate(timeout=120)
    finally:
        service.stop()
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert "data-5.tsv, line 8" in errors
    assert '"sideways" is not one of left, right, up' in errors
