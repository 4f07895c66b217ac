"""FedSPZO's saving: the first block runs once for P2 perturbations of the second, beside plain SPSA.

    python -m benchmarks.split [--bundle FOLDER] [--threads N] [--rounds N] [--quick] [--json FILE]

Both measure as many directions on the same batch (real text, 8 examples of 64 tokens) in one process, taking
turns, and the least time of each counts. F1 and F2, the blocks' times, are measured in the same run. Goals:
within 10 % of (F1 + F2) / (F1 / P2 + F2) (FedSPZO, arXiv 2502.10239), and at least 2.5 at one setting.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.local_step import TOKENS, default_bundle
from benchmarks.program import open_core
from benchmarks.step_inputs import batch_arrays
from device_runtime import core
from device_runtime.bundle import Bundle

EPSILON = 1e-3
DIRECTIONS = 8
MAX_DIFFERENCE = 0.10
MIN_SAVING = 2.5


def directions(per_prefix: int, boundary: int) -> list[core.Direction]:
    """As many directions as always, in groups of P2 that share their noise before the boundary."""
    return [
        core.Direction(number, boundary=boundary, prefix_seed=number - number % per_prefix)
        for number in range(DIRECTIONS)
    ]


def measure(folder: Path, threads: int, rounds: int) -> list[dict[str, Any]]:
    """One row a boundary and P2: seconds of plain SPSA and of FedSPZO, their ratio and the formula's."""
    bundle = Bundle.open(folder)
    device = open_core(bundle, threads)
    batch = core.Batch(*batch_arrays(bundle, TOKENS))
    head = bundle.manifest.chain.segments
    every_segment = list(range(head + 1))

    def runs(chosen: list[core.Direction]) -> Callable[[], object]:
        return lambda: device.measure([batch], chosen, EPSILON, every_segment)

    rows = []
    for boundary in sorted({head // 2, head - 1, head}):
        settings = {p2: runs(directions(p2, boundary)) for p2 in (1, 2, 4, 8)}
        first = runs(
            [core.Direction(number, active_segments=every_segment[boundary:]) for number in range(DIRECTIONS)]
        )
        least = least_times({"second": first, **settings}, rounds)
        # Directions in the second block alone run the first once; plain SPSA runs it 2 * DIRECTIONS times.
        f1 = (least[1] - least["second"]) / (2 * DIRECTIONS - 1)
        f2 = (least["second"] - f1) / (2 * DIRECTIONS)
        for p2 in (2, 4, 8):
            rows.append({
                "boundary": boundary, "per_prefix": p2, "spsa_s": least[1], "fedspzo_s": least[p2],
                "first_block_share": f1 / (f1 + f2), "saving": least[1] / least[p2],
                "formula": (f1 + f2) / (f1 / p2 + f2),
            })  # fmt: skip
    return rows


def least_times(work: dict[Any, Callable[[], object]], rounds: int) -> dict[Any, float]:
    """Seconds of each piece of work, the least of several rounds in which they take turns."""
    least = dict.fromkeys(work, float("inf"))
    for _ in range(rounds):
        for name, run in work.items():
            begin = time.perf_counter()
            run()
            least[name] = min(least[name], time.perf_counter() - begin)
    return least


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for a terminal, and what became of the goals."""
    heads = ("boundary", "P2", "F1 share", "SPSA ms", "FedSPZO ms", "saving", "formula")
    lines = ["".join(f"{head:>11}" for head in heads)]
    for row in rows:
        cells = (f"{row['boundary']}", f"{row['per_prefix']}", f"{row['first_block_share']:.1%}",
                 f"{1e3 * row['spsa_s']:.1f}", f"{1e3 * row['fedspzo_s']:.1f}",
                 f"{row['saving']:.2f}", f"{row['formula']:.2f}")  # fmt: skip
        lines.append("".join(f"{cell:>11}" for cell in cells))
    worst = max(abs(row["saving"] / row["formula"] - 1.0) for row in rows)
    best = max(row["saving"] for row in rows)
    near = "met" if worst <= MAX_DIFFERENCE else "missed"
    large = "met" if best >= MIN_SAVING else "missed"
    lines += [
        "",
        f"furthest from the formula: {worst:.1%} (goal: at most {MAX_DIFFERENCE:.0%}, {near})",
        f"largest saving: {best:.2f} (goal: at least {MIN_SAVING}, {large})",
    ]
    return "\n".join(lines)


def main() -> int:
    """Measures, prints, and writes JSON where asked."""
    parser = argparse.ArgumentParser(prog="benchmarks.split", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="default: MiniLM, exported once")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each setting (default: 8)")
    parser.add_argument("--quick", action="store_true", help="2 turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    rows = measure(
        arguments.bundle or default_bundle(), arguments.threads, 2 if arguments.quick else arguments.rounds
    )
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps({"threads": arguments.threads, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
