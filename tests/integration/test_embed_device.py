"""examples/embed_device.py, as an app developer would run it, against a real service."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import TinyTask

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "embed_device.py"
JOB = """\
name = "embed"
bundle = "{bundle}"
model = "{model}"
public = "{public}"
rounds = 2
cohort_size = 1
directions_per_task = 4
retry_min_ms = 20
retry_max_ms = 60
"""


@pytest.fixture
def server(tiny_task: TinyTask, tmp_path: Path) -> Iterator[str]:
    """HOST:PORT of a service for one device and two rounds."""
    job = tmp_path / "job.toml"
    settings = JOB.format(bundle=tiny_task.bundle, model=tiny_task.model, public=tiny_task.public)
    job.write_text(settings, encoding="utf-8")
    command = [sys.executable, "-m", "cooperllm", "serve", "--job", str(job), "--format", "json"]
    ports = ["--grpc-port", "0", "--http-port", "0", "--data-dir", str(tmp_path / "cloud")]
    with subprocess.Popen([*command, *ports], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        try:
            yield json.loads(service.stdout.readline())["grpc"]
        finally:
            service.terminate()
            service.wait(30)


def test_the_example_takes_part_and_predicts(server: str, tiny_task: TinyTask, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE), server, str(tmp_path / "device"), str(tiny_task.pool)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 2
    for label, probability in lines:
        assert label in tiny_task.classes
        assert round(1 / len(tiny_task.classes), 2) <= float(probability) <= 1.0
