"""What streaming order holds and costs, beside direction by direction on whole guides.

    python -m benchmarks.streaming_order [--bundle FOLDER] [--directions N] [--tokens N] [--quick]
                                         [--json FILE]

Every direction has a guide of its own, so that guides weigh. Each order runs in a process of its own: the
bytes of guides that are held, and how far anonymous memory grows above a device that has its weights; then
by turns with whole guides, for time (guides are made while the clock stands). The scalars must be equal bit
for bit, and the guides held no more than the two largest segments of all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.forward_models import bundle_of
from benchmarks.processes import run_child


def measure(folder: Path, tokens: int, directions: int, repeats: int) -> list[dict[str, Any]]:
    """One row an order: whole guides, streaming order, and a quarter of the directions at a time."""
    rows = []
    for group in (0, directions, max(1, directions // 4)):
        arguments = (str(folder), *map(str, (tokens, directions, group, repeats if group else 1)))
        _, figures = run_child("benchmarks.streaming_on_device", *arguments, threads=1)
        rows.append(figures)
    return rows


def ratio(row: dict[str, Any]) -> float:
    """An order's time over that of whole guides: the median over turns."""
    return statistics.median(
        took_s / whole_s for took_s, whole_s in zip(row["took_s"], row["whole_s"], strict=True)
    )


def table(rows: list[dict[str, Any]]) -> str:
    """The figures for a terminal."""
    names = ("guides MB", "states MB", "growth MB", "s a step", "of whole")
    lines = [f"{'order':<16}" + "".join(f"{name:>11}" for name in names)]
    for row in rows:
        order = {0: "whole guides", rows[1]["group"]: "streaming"}.get(
            row["group"], f"groups of {row['group']}"
        )
        sizes = "".join(f"{row[name] / 1e6:11.2f}" for name in ("guide_bytes", "state_bytes", "growth_bytes"))
        lines.append(f"{order:<16}{sizes}{statistics.median(row['took_s']):11.3f}{ratio(row):11.3f}")
    whole, largest = rows[0]["whole_guide_bytes"] / 1e6, rows[0]["two_largest_segments_bytes"] / 1e6
    return "\n".join([*lines, f"all guides {whole:.2f} MB, their two largest segments {largest:.2f} MB"])


def problem(rows: list[dict[str, Any]]) -> str:
    """What does not hold; empty where all does."""
    if any(row["scalars"] != rows[0]["scalars"] for row in rows):
        return "the scalars differ"
    if any(row["guide_bytes"] > row["two_largest_segments_bytes"] for row in rows[1:]):
        return "streaming order holds more than the two largest segments"
    return ""


def main() -> int:
    """Measures, prints, and writes JSON where asked. 1 where a claim does not hold."""
    parser = argparse.ArgumentParser(prog="benchmarks.streaming_order", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--bundle", type=Path, metavar="FOLDER", help="default: the packaged MiniLM with LoRA"
    )
    parser.add_argument("--directions", type=int, default=32, help="default: 32")
    parser.add_argument("--tokens", type=int, default=32, help="a row; default: 32")
    parser.add_argument("--quick", action="store_true", help="8 directions, 3 turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    directions, repeats = (8, 3) if arguments.quick else (arguments.directions, 7)
    try:
        rows = measure(arguments.bundle or bundle_of("minilm", "fp32"), arguments.tokens, directions, repeats)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    if problem(rows):
        print(problem(rows), file=sys.stderr)
    return int(bool(problem(rows)))


if __name__ == "__main__":
    sys.exit(main())
