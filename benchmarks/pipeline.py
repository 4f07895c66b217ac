"""A round whose stages overlap, beside the same round one thing after the other: real service, real device.

    python -m benchmarks.pipeline [--quick] [--json FILE] [--plot FOLDER]

The device and the service are processes of their own, a throttling proxy is the link between them. A model of
eight segments (random weights, LoRA in all of its linear layers) is trained along the public gradient, which
is sampled by segment from the round's own version. Three cases, each with 1, 8 and 32 directions: link-bound
(the link takes three times what sampling and device do), compute-bound (the device does), balanced.

Every case runs twice with the same job and seeds: with `pipelined = false`, where each stage works alone,
and pipelined. The stages as measured alone give the flow shop's bound (cloud_service/pipeline.py) for the
other. Goals: a makespan of at most 1.15 times the bound, balanced at least 1.8 times faster than serial (the
bound of three equal stages over eight segments is 2.4), and the same adapter, bit for bit. The folder of the
plot also holds each pipelined run as a Chrome trace.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.pipeline_rounds import Case, Costs, Stages, Taken, costs, guide_bytes, run_twice

MOST_OF_BOUND = 1.15
LEAST_SPEED_UP = 1.8
# Name → how long link and sampling take, beside the device. What a device does in a segment is 64 runs,
# whatever the number of directions: more of them take smaller batches.
SHARES = {"balanced": (1.0, 1.0), "link-bound": (3.0, 1.0), "compute-bound": (1 / 3, 1 / 3)}
BATCHES = {1: 256, 8: 32, 32: 8}


@dataclass(frozen=True)
class Row:
    """One case; seconds, medians over its measured rounds."""

    case: str
    directions: int
    sampling_s: float
    link_s: float
    device_s: float
    bound_s: float
    makespan_s: float
    serial_s: float
    equal: bool
    guide_bytes: int

    @property
    def of_bound(self) -> float:
        """Makespan beside the bound."""
        return self.makespan_s / self.bound_s

    @property
    def speed_up(self) -> float:
        """The serial round beside the makespan."""
        return self.serial_s / self.makespan_s

    @property
    def met(self) -> bool:
        """Whether the goals are."""
        fast = self.case != "balanced" or self.speed_up >= LEAST_SPEED_UP
        return self.equal and self.of_bound <= MOST_OF_BOUND and fast


def row_of(case: Case, alone: Stages, serial: Taken, pipelined: Taken) -> Row:
    """What came of the two runs of a case."""
    return Row(
        case.name,
        case.directions,
        sum(alone.sampling_s),
        sum(alone.link_s),
        sum(alone.device_s),
        alone.bound_s,
        pipelined.makespan_s,
        serial.makespan_s,
        serial.adapter_sha256 == pipelined.adapter_sha256,
        guide_bytes(),
    )


def table(rows: list[Row]) -> str:
    """The figures for a terminal."""
    lines = [
        f"{'case':14}{'directions':>11}{'sampling s':>12}{'link s':>8}{'device s':>10}{'bound s':>9}"
        f"{'took s':>8}{'/ bound':>9}{'serial s':>10}{'faster':>8}{'adapter':>9}"
    ]
    lines += [
        f"{row.case:14}{row.directions:11}{row.sampling_s:12.2f}{row.link_s:8.2f}{row.device_s:10.2f}"
        f"{row.bound_s:9.2f}{row.makespan_s:8.2f}{row.of_bound:9.2f}{row.serial_s:10.2f}"
        f"{row.speed_up:7.2f}x{'equal' if row.equal else 'OTHER':>9}"
        for row in rows
    ]
    missed = [f"{row.case}, {row.directions} directions" for row in rows if not row.met]
    lines.append(
        f"goals: at most {MOST_OF_BOUND} of the bound, balanced at least {LEAST_SPEED_UP} times faster than "
        f"serial, equal adapters: {'all met' if not missed else 'missed by ' + '; '.join(missed)}"
    )
    return "\n".join(lines)


def draw(rows: list[Row], file: Path) -> None:
    """Serial, pipelined and bound of every case, as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.0, 0.9 + 0.55 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        axes.barh(place - 0.2, row.serial_s, 0.36, color="#c9d3de", label="serial" if not place else None)
        axes.barh(
            place + 0.2, row.makespan_s, 0.36, color="#2f6db5", label="pipelined" if not place else None
        )
        axes.plot([row.bound_s] * 2, [place, place + 0.4], color="#e0912f", linewidth=2,
                  label="flow-shop bound" if not place else None)  # fmt: skip
        axes.text(row.serial_s, place - 0.2, f" {row.speed_up:.2f}x", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{row.case}, {row.directions}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("seconds a round")
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    figure.savefig(file, dpi=130)


def cases(quick: bool) -> list[Case]:
    """All of them; the balanced one of 8 directions, shorter, where it has to be quick."""
    if quick:
        return [Case("balanced", 8, 16, *SHARES["balanced"], rounds=3)]
    return [
        Case(name, directions, BATCHES[directions], *shares)
        for name, shares in SHARES.items()
        for directions in BATCHES
    ]


def main() -> int:
    """Measures, prints, draws, and writes JSON where asked. 1 where a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one case, under 50 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--plot", type=Path, metavar="FOLDER", default=Path("pipeline"), help="default: pipeline"
    )
    options = parser.parse_args()
    options.plot.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    of: dict[int, Costs] = {}
    for case in cases(options.quick):
        print(f"{case.name}, {case.directions} directions …", file=sys.stderr)
        if case.directions not in of:
            of[case.directions] = costs(case.directions, case.batch_examples)
        rows.append(row_of(case, *run_twice(case, of[case.directions], options.plot)))
    print(table(rows))
    draw(rows, options.plot / "pipeline.png")
    if options.json:
        found: list[dict[str, Any]] = [
            asdict(row) | {"of_bound": row.of_bound, "speed_up": row.speed_up} for row in rows
        ]
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
