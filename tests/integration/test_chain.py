"""`cooperllm simulate --estimator chainfed` for real: scores, a window with an exit, the end to end stage."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cooperllm.simulate.records import read_rows
from device_runtime.bundle import Bundle
from tests.integration.tiny import write_table

pytestmark = pytest.mark.ci

CLASSES = ["red", "green", "blue"]
LAYERS = 2


@pytest.fixture(scope="module")
def bundle(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny BERT's bundle with bottlenecks, whose program has the auxiliary branches of a global loss."""
    from export.command import add_arguments, run

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    folder = tmp_path_factory.mktemp("bundles") / "chain"
    options = ["--model", str(tiny_source), "--classes", ",".join(CLASSES), "--out", str(folder)]
    kind = ["--adapter", "bottleneck", "--bottleneck", "4", "--max-tokens", "32", "--batch-examples", "4"]
    precision = ["--precision", "fp32", "--fidelity-directions", "0"]
    assert run(parser.parse_args(options + kind + precision)) == 0
    return Bundle.open(folder)


def simulated(
    source: Path, bundle: Bundle, folder: Path, job: str, *more: str
) -> tuple[dict[str, Any], Path]:
    """Runs the command on two devices; its JSON and the run's folder."""
    out, tables = folder / "run", folder / "tables"
    tables.mkdir()
    pool = write_table(tables / "pool.tsv", 160, CLASSES, seed=1)
    public = write_table(tables / "public.tsv", 24, CLASSES, seed=2)
    evaluation = write_table(tables / "eval.tsv", 40, CLASSES, seed=3)
    settings = tables / "job.toml"
    settings.write_text(job)
    command = [
        sys.executable, "-m", "cooperllm", "simulate", "--data", str(pool), "--public-data", str(public),
        "--eval", str(evaluation), "--model", str(source), "--bundle", str(bundle.folder), "--devices", "2",
        "--shards", "iid", "--out", str(out), "--job", str(settings), "--no-baselines", "--format", "json",
        "--estimator", "chainfed", *more,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["unequal"] == []
    assert found["refusals"] == []
    return found, out


def test_a_chain_of_real_devices(tiny_source: Path, bundle: Bundle, tmp_path: Path) -> None:
    job = "directions_per_task = 8\nbatch_examples = 8\nevaluate_every_rounds = 1\n"
    job += "chain_threshold = 1.0\nchain_window = 1\n"
    found, out = simulated(tiny_source, bundle, tmp_path, job, "--rounds", "7")
    (chain,) = found["chain"]
    scores = chain["segment_scores"]
    assert len(scores) == LAYERS
    assert all(0.0 <= score < 1.0 for score in scores)  # every segment changes something
    assert chain["start"] == 0
    trained = [(stage["segments"], stage["exit_segment"], stage["global_weight"], stage["rounds"])
               for stage in chain["stages"]]  # fmt: skip
    assert trained == [([0], 1, 0.2, [1, 2]), ([1], 0, 0.0, [3, 4]), ([0, 1], 0, 0.0, [5, 6])]
    rows = read_rows(out / "metrics.jsonl")
    assert [row.version for row in rows] == list(range(8))
    assert rows[0].adapter_sha256 == rows[1].adapter_sha256  # scores move nothing
    assert len({row.adapter_sha256 for row in rows}) == 7
    assert all(len(row.device_sha256) == 2 for row in rows)
    page = (out / "report.html").read_text()
    assert "Stages of the chain" in page
    assert "starts at segment 0" in page
    trace = (out / "timeline.json").read_text()
    assert "stage 1/3: segment 0, exit after segment 0" in trace
