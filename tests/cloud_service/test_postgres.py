"""The service on PostgreSQL: the same adapters as on SQLite, killed or not, and clear words without one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_service.store import Store, StoreError
from device_runtime.bundle import Bundle
from device_runtime.errors import OptionError
from tests.cloud_service import postgres
from tests.cloud_service.fake_device import FakeDevice, json_get, run_sessions
from tests.cloud_service.small_bundle import write_bundle
from tests.cloud_service.small_service import small_job, started
from tests.cloud_service.test_kill import disturbed

BINARIES = postgres.programs()
NEEDS_SERVER = pytest.mark.skipif(BINARIES is None, reason="PostgreSQL's server is not installed here")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture
def database() -> Iterator[str]:
    assert BINARIES is not None
    with postgres.server(BINARIES) as url:
        yield url


def versions(bundle: Bundle, folder: Path, **options: str) -> dict[int, str]:
    """Version -> hash of a job with three devices."""
    service, where = started(bundle, folder, small_job(bundle), **options)
    try:
        devices = [FakeDevice(number, where.grpc, bundle.layout) for number in range(3)]
        run_sessions(devices)
        rows = json_get(where.http + "/v1/versions", "operator")
    finally:
        service.stop()
    found = {row["version"]: row["adapter_sha256"] for row in rows}
    for device in devices:
        assert device.hashes.items() <= found.items()
    return found


@pytest.mark.ci
@NEEDS_SERVER
def test_a_job_on_postgresql_is_the_job_on_sqlite_also_when_killed(
    bundle: Bundle, tmp_path: Path, database: str
) -> None:
    on_sqlite = versions(bundle, tmp_path / "sqlite")
    assert len(set(on_sqlite.values())) == 5
    assert disturbed(bundle, tmp_path / "killed", [40, 90], {}, {"database": database}) == on_sqlite
    # Another start on the same database finds the job finished, and gives it out as it was.
    assert versions(bundle, tmp_path / "killed", database=database) == on_sqlite


def test_without_the_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(OptionError, match=r"pip install 'cooperllm\[postgres\]'"):
        Store("postgresql+psycopg://cooperllm@/postgres")


def test_a_database_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        Store(f"postgresql+psycopg://cooperllm@/postgres?host={tmp_path}&connect_timeout=2")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("the database failed: ")
    assert "start again" in message
