"""FedSPZO through the service: the times that devices report decide the next round's two blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from device_runtime.bundle import Bundle
from tests.cloud_service.fake_device import FakeDevice, json_get, run_sessions
from tests.cloud_service.small_bundle import write_bundle
from tests.cloud_service.small_service import small_job, started

FEDSPZO: dict[str, Any] = {"estimator": "fedspzo", "active_segments": "all", "directions_per_task": 8}
# The program counts every segment alike; where the first takes this long, the second is worth many runs.
SLOW_START_MS = [100.0, 1.0, 1.0]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "small")


def rounds_of(bundle: Bundle, folder: Path, **changes: Any) -> tuple[list[Any], list[FakeDevice]]:
    """The rounds of a job with three devices of different speed, whose first segment is slow."""
    service, where = started(bundle, folder, small_job(bundle, **(FEDSPZO | changes)))
    try:
        devices = [FakeDevice(number, where.grpc, bundle.layout) for number in range(3)]
        for device in devices:
            device.segment_ms = [(1.0 + device.number) * ms for ms in SLOW_START_MS]
        run_sessions(devices)
        return json_get(where.http + "/v1/rounds", "operator"), devices
    finally:
        assert service.stop()


def test_the_first_round_cuts_by_count_and_the_next_by_times(bundle: Bundle, tmp_path: Path) -> None:
    found, devices = rounds_of(bundle, tmp_path)
    splits = [row["split"] for row in found[:4]]
    assert splits[0] == {"boundary": 1, "per_prefix": 1, "segment_ms": [], "reports": 0, "by": "count"}
    for number in (1, 2, 3):
        assert (splits[number]["boundary"], splits[number]["per_prefix"]) == (1, 8)
        assert splits[number]["by"] == "times"
        assert splits[number]["reports"] == 3 * number
        assert splits[number]["segment_ms"] == pytest.approx([2 * ms for ms in SLOW_START_MS])
    for device in devices:
        asked = [device.asked[number].directions.steps[0].directions[0] for number in range(4)]
        assert [(item.boundary, item.per_prefix) for item in asked] == [(1, 1), (1, 8), (1, 8), (1, 8)]
        assert len(set(device.hashes.values())) == 5  # every version moved, and the device kept up


def test_a_job_that_says_where_is_cut_there(bundle: Bundle, tmp_path: Path) -> None:
    found, devices = rounds_of(bundle, tmp_path, boundary=2, per_prefix=2)
    splits = [(row["split"]["boundary"], row["split"]["per_prefix"], row["split"]["by"]) for row in found[:4]]
    assert splits == [(2, 2, "job")] * 4
    assert devices[0].asked[3].directions.steps[0].directions[0].boundary == 2


def test_other_estimators_have_no_split(bundle: Bundle, tmp_path: Path) -> None:
    found, _ = rounds_of(bundle, tmp_path, estimator="isotropic")
    assert all(row["split"] is None for row in found)
