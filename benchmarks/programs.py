"""One program of many methods beside a program a method: what exporting, storing and running them needs.

    python -m benchmarks.programs [--model NAME] [--precision P] [--threads N] [--quick] [--json FILE]

A bundle holds one program. The other way is a program for each method, which a device could fetch and open by
itself. Both are made of the same checkpoint with random weights, each way in a process of its own; the task
is causal_lm, whose head reads the word table that `embed` reads too. Compared are the export's time and peak
memory, the bytes to store and to fetch, and the activations' memory: methods of one program share one arena
(the largest counts), separate programs plan one each (the sum counts).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.export_models import SHAPES, checkpoint
from benchmarks.processes import run_child

WAYS = {"one": "one program", "many": "a program a method"}
HEADS = ("export s", "peak anon. MB", "stored MB", "largest MB", "arenas MB")


def measure(name: str, precision: str, threads: int) -> dict[str, Any]:
    """Way → figures."""
    source, rows = str(checkpoint(name)), dict[str, Any]()
    for way in WAYS:
        with tempfile.TemporaryDirectory(prefix="cooperllm-programs-") as folder:
            given = (source, folder, precision, way, str(threads))
            memory, rows[way] = run_child("benchmarks.programs_in_process", *given, threads=threads)
            rows[way]["export_memory"] = asdict(memory)
            sizes = [path.stat().st_size for path in Path(folder).glob("*.pte")]
        rows[way] |= {"programs": len(sizes), "stored_bytes": sum(sizes), "largest_bytes": max(sizes)}
    return rows


def line(way: str, row: dict[str, Any]) -> str:
    """A way's figures for a terminal."""
    sizes = [row["export_memory"]["peak_anonymous_bytes"], row["stored_bytes"], row["largest_bytes"]]
    arenas = max(row["planned_bytes"]) if way == "one" else sum(row["planned_bytes"])
    text = f"{WAYS[way]:20}{row['export_s']:14.0f}"
    return text + "".join(f"{size / 1e6:14.1f}" for size in (*sizes, arenas))


def main() -> int:
    """Measures, prints, and writes JSON where asked."""
    parser = argparse.ArgumentParser(prog="benchmarks.programs", description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=SHAPES, default="opt-125m", help="default: opt-125m")
    parser.add_argument("--precision", choices=("fp32", "int8", "int4"), default="int8", help="default: int8")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--quick", action="store_true", help="two layers of OPT-125M's shape, 8,192 words")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    name = "opt-tiny" if arguments.quick else arguments.model
    try:
        rows = measure(name, arguments.precision, arguments.threads)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{name} {arguments.precision}".ljust(20) + "".join(f"{head:>14}" for head in HEADS))
    for way, row in rows.items():
        print(line(way, row))
    if arguments.json:
        figures = {"model": name, "precision": arguments.precision, "rows": rows}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
