"""The runs of pipeline.py: a service, a device and the link between them; who did what when."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.forward_models import cache
from benchmarks.pipeline_model import source
from cloud_service.job import from_table
from cloud_service.pipeline import makespan_s
from cooperllm.simulate import round_plot, timeline
from cooperllm.simulate.federation import Federation, Plan
from cooperllm.simulate.link import Link
from cooperllm.simulate.live import Silent
from cooperllm.simulate.pipelined import Bar, Pipelined, pipelined
from cooperllm.simulate.rounds import guide_spans, round_spans
from cooperllm.simulate.settings import write_job
from cooperllm.simulate.timeline import Span
from device_runtime.bundle import Bundle
from device_runtime.examples import read_examples

SEGMENTS = 8
BATCH_EXAMPLES = 8  # of the program
FASTEST_BYTES_PER_S = 1e8
RTT_S = 0.01
FIRST_MEASURED = 1  # round 0 samples before it opens, and downloads the bundle
DEVICE = "device-0"
DATA = Path(__file__).parent.parent / "cooperllm" / "data"


@dataclass(frozen=True)
class Case:
    """`link_share` and `sampling_share` are what link and sampling should take, beside the device."""

    name: str
    directions: int
    batch_examples: int
    link_share: float
    sampling_share: float
    rounds: int = 4

    @property
    def runs(self) -> float:
        """How often the device runs a segment."""
        return 2 * self.directions * self.batch_examples / BATCH_EXAMPLES


class Costs(NamedTuple):
    """Seconds, of all segments together: of one run on the device, and of one public example in the cloud."""

    run_s: float
    example_s: float


@dataclass(frozen=True)
class Stages:
    """p(l, k): what each stage takes for each segment when it works alone; medians over rounds."""

    sampling_s: list[float]
    link_s: list[float]
    device_s: list[float]

    @property
    def bound_s(self) -> float:
        """The flow shop's makespan."""
        return makespan_s([self.sampling_s, self.link_s, self.device_s])


class Taken(NamedTuple):
    """What a run took: the median of its rounds, from the first segment's sampling to the last one's run."""

    makespan_s: float
    adapter_sha256: str


class _Run(NamedTuple):
    rounds: list[Pipelined]
    spans: list[Span]
    adapter_sha256: str


def bundle() -> Bundle:
    """Eight segments of a BERT with random weights, width 256, LoRA of rank 16 in every linear layer."""
    folder = cache() / "pipeline-fp32"
    if not (folder / "manifest.json").exists():
        classes = sorted({example.label for example in read_examples(DATA / "public.tsv")})
        command = [sys.executable, "-m", "cooperllm", "export", "--model", str(source(cache()))]
        command += ["--classes", ",".join(classes), "--target-modules", "all-linear", "--rank", "16"]
        command += ["--precision", "fp32", "--fidelity-directions", "0", "--out", str(folder)]
        subprocess.run(command, check=True, capture_output=True)
    return Bundle.open(folder)


def costs(directions: int, batch_examples: int) -> Costs:
    """Of this machine, from a short serial run with a fast link."""
    case = Case("calibration", directions, batch_examples, 1.0, 1.0, rounds=3)
    with tempfile.TemporaryDirectory() as place:
        found = _alone(_run(case, Path(place), False, FASTEST_BYTES_PER_S, 8 * SEGMENTS).rounds)
    return Costs(sum(found.device_s) / case.runs, sum(found.sampling_s) / (8 * SEGMENTS))


def run_twice(case: Case, of: Costs, folder: Path) -> tuple[Stages, Taken, Taken]:
    """The stages alone and the serial run, both of one run, and the pipelined one.

    A picture and a Chrome trace of the pipelined run go to `folder`.
    """
    device_s = case.runs * of.run_s
    # A multiple of the segments, each of which has its own examples.
    public = SEGMENTS * max(1, round(case.sampling_share * device_s / of.example_s / SEGMENTS))
    rate = guide_bytes() / (case.link_share * device_s)
    with tempfile.TemporaryDirectory() as place:
        serial = _run(case, Path(place) / "serial", False, rate, public)
        overlapped = _run(case, Path(place) / "pipelined", True, rate, public)
    name = f"{case.name}-{case.directions}"
    (folder / f"{name}.png").write_bytes(round_plot.draw(_middle(overlapped.rounds)))
    timeline.write(folder / f"{name}-trace.json", overlapped.spans)
    return _alone(serial.rounds), _taken(serial), _taken(overlapped)


def guide_bytes() -> int:
    """Of a guide over all segments but the head, in float32."""
    return 4 * bundle().layout.segment_slice(SEGMENTS).start


def _run(case: Case, folder: Path, overlap: bool, rate: float, public: int) -> _Run:
    job = from_table({
        "name": case.name, "bundle": str(bundle().folder), "public": str(_public(folder, public)),
        "model": str(source(cache())), "rounds": case.rounds, "cohort_size": 1, "estimator": "zgr",
        "active_segments": list(range(SEGMENTS)), "directions_per_task": case.directions,
        "batch_examples": case.batch_examples, "momentum": 0.0, "scale": "none", "start": "bundle",
        "guide_sampling": "by_segment", "guide_staleness": 0, "guide_level": 0, "pipelined": overlap,
        "evaluate_every_rounds": 0, "retry_min_ms": 20, "retry_max_ms": 40,
    })  # fmt: skip
    link = Link(rate, FASTEST_BYTES_PER_S, RTT_S)
    private = shutil.copy(DATA / "private.tsv", folder / "private.tsv")
    plan = Plan(case.name, folder, write_job(folder / "job.toml", job), [Path(private)], case.rounds, 0,
                bundle(), links=(link,))  # fmt: skip
    with Federation(plan) as federation:
        ledger = federation.run(Silent())
        assert federation.operator is not None  # it answered, or the run would not have finished
        rounds = federation.operator.rounds()
        federation.history.read(federation.operator, range(case.rounds), most=case.rounds)
        sent = guide_spans(federation.history.rows(), ledger.device_by_task)
    spans = [*ledger.spans, *round_spans(rounds), *sent]
    found = [pipelined(spans, number, DEVICE) for number in range(FIRST_MEASURED, case.rounds)]
    return _Run([each for each in found if each is not None], spans, ledger.sha256_by_version[case.rounds])


def _public(folder: Path, count: int) -> Path:
    """So many examples for the cloud to sample from; what they say does not matter here."""
    folder.mkdir(parents=True, exist_ok=True)
    head, *lines = (DATA / "private.tsv").read_text(encoding="utf-8").splitlines()
    chosen = [lines[number % len(lines)] for number in range(count)]
    file = folder / "public.tsv"
    file.write_text("\n".join([head, *chosen]) + "\n", encoding="utf-8")
    return file


def _alone(rounds: Sequence[Pipelined]) -> Stages:
    segments = [bar.segment for bar in rounds[0].worked]
    stages = [
        [median(_of(bars, segment) for bars in stage) for segment in segments]
        for stage in (
            [found.sampled for found in rounds],
            [found.arrived for found in rounds],
            [found.worked for found in rounds],
        )
    ]
    return Stages(*stages)


def _of(bars: Sequence[Bar], segment: int) -> float:
    return sum(bar.duration_s for bar in bars if bar.segment == segment)


def _middle(rounds: Sequence[Pipelined]) -> Pipelined:
    return sorted(rounds, key=lambda found: found.makespan_s)[(len(rounds) - 1) // 2]


def _taken(run: _Run) -> Taken:
    return Taken(median(found.makespan_s for found in run.rounds), run.adapter_sha256)
