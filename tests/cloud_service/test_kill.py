"""SIGKILL of the service at seeded moments: after restarts, every version has the same bits as without."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cloud_service.holding import listen
from device_runtime.bundle import Bundle
from tests.cloud_service.eager_device import BundleDevice, EagerDevice
from tests.cloud_service.fake_device import FakeDevice, json_get, run_sessions
from tests.cloud_service.small_bundle import small_layout, write_bundle
from tests.cloud_service.small_service import small_job, started

LAYOUT = small_layout()
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture(scope="module")
def undisturbed(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Version -> hash of a run that nothing disturbs."""
    return quiet_run(bundle, tmp_path_factory.mktemp("undisturbed"), FakeDevice)


def quiet_run(bundle: Bundle, folder: Path, kind: type[FakeDevice]) -> dict[int, str]:
    service, where = started(bundle, folder, small_job(bundle))
    try:
        devices = [kind(number, where.grpc, LAYOUT) for number in range(3)]
        run_sessions(devices)
        rows = json_get(where.http + "/v1/versions", "operator")
    finally:
        service.stop()
    return {row["version"]: row["adapter_sha256"] for row in rows}


def free_ports() -> dict[str, int]:
    """Two ports that stay the same over restarts, as an operator's do."""
    sockets = [listen("127.0.0.1", 0, "") for _ in range(2)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return {"grpc_port": ports[0], "http_port": ports[1]}


def disturbed(
    bundle: Bundle,
    folder: Path,
    moments: list[int],
    changes: dict[str, Any],
    options: dict[str, str] | None = None,
    kind: type[FakeDevice] = FakeDevice,
) -> dict[int, str]:
    """Runs the job with devices in this process and a service that dies at each moment; version -> hash."""
    ports = free_ports()
    given = ports | (options or {})
    program = [sys.executable, "-m", "tests.cloud_service.small_service", str(bundle.folder), str(folder)]
    program += [json.dumps(changes), json.dumps(given)]
    devices = [kind(number, f"127.0.0.1:{ports['grpc_port']}", bundle.layout) for number in range(3)]
    threads = [threading.Thread(target=device.session, args=(90.0,)) for device in devices]
    for thread in threads:
        thread.start()
    for moment in [*moments, 0]:
        with subprocess.Popen([*program, str(moment)], cwd=ROOT, stdout=subprocess.PIPE) as process:
            if moment:
                assert process.wait(60) == -signal.SIGKILL
                continue
            for thread in threads:
                thread.join(90)
            rows = json_get(f"http://127.0.0.1:{ports['http_port']}/v1/versions", "operator")
            process.kill()
    versions = {row["version"]: row["adapter_sha256"] for row in rows}
    for device in devices:
        assert device.hashes.items() <= versions.items()
        assert device.version == max(versions)
    return versions


def seeded_moments(seed: int, kills: int) -> list[int]:
    """From the first statements of a start to well into a round; odd ones are begins, even ones commits."""
    draw = random.Random(seed)
    return [draw.randrange(1, 140) for _ in range(kills)]


def test_killed_again_and_again(bundle: Bundle, undisturbed: dict[int, str], tmp_path: Path) -> None:
    assert disturbed(bundle, tmp_path / "run", seeded_moments(1, 3), {}) == undisturbed


@pytest.mark.ci
def test_killed_while_scalars_come_ahead_of_reports(bundle: Bundle, tmp_path: Path) -> None:
    expected = quiet_run(bundle, tmp_path / "quiet", BundleDevice)  # sends none ahead
    assert disturbed(bundle, tmp_path / "run", seeded_moments(4, 3), {}, kind=EagerDevice) == expected


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_ten_moments_while_scalars_come(bundle: Bundle, tmp_path: Path, seed: int) -> None:
    expected = quiet_run(bundle, tmp_path / "quiet", BundleDevice)
    moments = seeded_moments(200 + seed, 1 + seed % 3)
    assert disturbed(bundle, tmp_path / "run", moments, {}, kind=EagerDevice) == expected


@pytest.mark.ci
def test_killed_with_mixed_forms(bundle: Bundle, undisturbed: dict[int, str], tmp_path: Path) -> None:
    moments = seeded_moments(2, 2)
    assert disturbed(bundle, tmp_path / "run", moments, {"version_form": "mixed"}) == undisturbed


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_twenty_moments(
    bundle: Bundle, undisturbed: dict[int, str], tmp_path: Path, seed: int
) -> None:
    assert disturbed(bundle, tmp_path / "run", seeded_moments(100 + seed, 1 + seed % 3), {}) == undisturbed
