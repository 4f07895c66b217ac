"""Four real devices in one job of a real service: Python twice, Kotlin here and on emulated arm64."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.emulated import NATIVE, Emulator
from benchmarks.emulator_bundles import CLASSES
from tests.integration.jvm_device import JvmDevice
from tests.integration.test_emulated_device import JOB, ROUNDS, hashes_of_all, running
from tests.integration.tiny import write_table

pytestmark = pytest.mark.emulator
PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
DEVICES = 4


def test_all_four_hold_the_clouds_adapter_after_every_round(
    emulator: Emulator, jvm: JvmDevice, emulated_bundle: Path, tmp_path: Path
) -> None:
    classes = CLASSES.split(",")
    model, public = (
        emulated_bundle.parent / "model",
        write_table(tmp_path / "public.tsv", 30, classes, seed=2),
    )
    data = [write_table(tmp_path / f"{number}.tsv", 120, classes, 10 + number) for number in range(DEVICES)]
    job = tmp_path / "job.toml"
    settings = JOB.format(bundle=emulated_bundle, model=model, public=public, rounds=ROUNDS)
    job.write_text(settings.replace("cohort_size = 2", f"cohort_size = {DEVICES}"))
    serve = ("serve", "--job", str(job), "--format", "json", "--grpc-port", "0", "--http-port", "0")
    kept = ("--data-dir", str(tmp_path / "cloud"))
    with ExitStack() as devices, running(NATIVE, *serve, *kept, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        server = json.loads(service.stdout.readline())["grpc"]
        started: list[subprocess.Popen[str]] = []
        for number, kotlin in enumerate((jvm.on(emulator), jvm)):
            started.append(kotlin.start(server, tmp_path / f"kotlin-{number}", data[number], **PIPES))
            devices.callback(started[-1].kill)
        for number in (2, 3):
            told = ("--until-finished", "--format", "json", "--first-contact-s", "60")
            where = ("--server", server, "--state", str(tmp_path / f"python-{number}"))
            python = running(NATIVE, "device", *where, "--data", str(data[number]), *told, **PIPES)
            started.append(devices.enter_context(python))
        held = hashes_of_all(started)
    with closing(sqlite3.connect(tmp_path / "cloud" / "cooperllm.db")) as database:
        cloud = dict(database.execute("SELECT number, adapter_sha256 FROM versions"))
    assert len(set(cloud.values())) == ROUNDS + 1  # every round changed the adapter
    assert held == [cloud] * DEVICES
