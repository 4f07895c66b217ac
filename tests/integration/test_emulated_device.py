"""A real device on emulated arm64 and one on this machine take part in one job of a real service."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.emulated import NATIVE, ROOT, Emulator, Machine
from benchmarks.emulator_bundles import CLASSES
from tests.integration.tiny import write_table

pytestmark = pytest.mark.emulator
ROUNDS = 4
TIMEOUT_S = 300
JOB = """\
name = "emulated"
bundle = "{bundle}"
model = "{model}"
public = "{public}"
rounds = {rounds}
cohort_size = 2
directions_per_task = 4
batch_examples = 8
epsilon = 0.01
retry_min_ms = 50
retry_max_ms = 200
seed = 4
"""


@contextmanager
def running(machine: Machine, *arguments: str, **pipes: Any) -> Iterator[subprocess.Popen[str]]:
    """`cooperllm ARGUMENTS` on a machine, ended when the test is."""
    command = machine.command("cooperllm", *arguments)
    process = subprocess.Popen(command, text=True, cwd=ROOT, env=machine.environment, **pipes)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def hashes_of_all(processes: Sequence[subprocess.Popen[str]]) -> list[dict[int, str]]:
    """Reads them all at once: a device whose pipe is full waits, and a job waits for its devices."""
    with ThreadPoolExecutor(len(processes)) as readers:
        return list(readers.map(hashes_of, processes))


def hashes_of(process: subprocess.Popen[str]) -> dict[int, str]:
    """The hash of every adapter version that a device held until it ended."""
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    events = [json.loads(line) for line in output.splitlines()]
    assert {event["status"] for event in events if event["event"] == "report"} == {"OK"}
    assert len([event for event in events if event["event"] == "report"]) >= ROUNDS
    return {event["version"]: event["adapter_sha256"] for event in events if event["event"] == "version"}


def test_a_session_holds_the_clouds_adapter_after_every_round(
    emulator: Emulator, emulated_bundle: Path, tmp_path: Path
) -> None:
    classes = CLASSES.split(",")
    public = write_table(tmp_path / "public.tsv", 30, classes, seed=2)
    model = emulated_bundle.parent / "model"
    job = tmp_path / "job.toml"
    job.write_text(JOB.format(bundle=emulated_bundle, model=model, public=public, rounds=ROUNDS))
    serve = ("serve", "--job", str(job), "--format", "json", "--grpc-port", "0", "--http-port", "0")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with running(NATIVE, *serve, "--data-dir", str(tmp_path / "cloud"), stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        server = json.loads(service.stdout.readline())["grpc"]

        def device(number: int) -> tuple[str, ...]:
            data = write_table(tmp_path / f"data-{number}.tsv", 120, classes, seed=10 + number)
            told = ("--until-finished", "--format", "json", "--first-contact-s", "60")
            return (
                "device",
                "--server",
                server,
                "--data",
                str(data),
                "--state",
                str(tmp_path / f"{number}"),
                *told,
            )

        with running(emulator, *device(0), **pipes) as there, running(NATIVE, *device(1), **pipes) as here:
            held = hashes_of_all([there, here])
    with closing(sqlite3.connect(tmp_path / "cloud" / "cooperllm.db")) as database:
        cloud = dict(database.execute("SELECT number, adapter_sha256 FROM versions"))
    assert len(set(cloud.values())) == ROUNDS + 1  # every round changed the adapter
    assert held == [cloud, cloud]
