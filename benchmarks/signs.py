"""Both signs of a direction in one forward, beside one after the other, by the length of a batch.

    python -m benchmarks.signs [--bundle FOLDER] [--precision P] [--threads N] [--quick] [--json FILE]

The packaged MiniLM with 8 examples in a batch, exported with --both-signs once and kept in the user's cache.
What is timed is what a device times at its first start (device_runtime/signs.py): one direction in the last
segment, from the hidden state that enters it through the head, the two forms in turn. A device pairs batches
up to the length where the gain ends; there is no goal but that it never chooses the slower form.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.forward_models import bundle_of
from device_runtime.bundle import Bundle
from device_runtime.engine import Engine
from device_runtime.signs import GAIN, lengths, times


def measure(folder: Path, threads: int, quick: bool) -> list[dict[str, Any]]:
    """One row a length; seconds of both forms."""
    engine, rows = Engine(Bundle.open(folder), threads), []
    batch_examples = engine.bundle.manifest.chain.batch_examples
    for tokens in lengths(engine)[: 2 if quick else None]:
        apart_s, together_s = times(engine, tokens, time.perf_counter)
        rows.append(
            {"tokens": tokens, "rows": batch_examples * tokens, "apart_s": apart_s, "together_s": together_s}
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The figures for a terminal."""
    lines = [f"{'tokens':>8}{'rows':>8}{'two forwards ms':>18}{'one forward ms':>18}{'gain':>8}"]
    for row in rows:
        gain = row["apart_s"] / row["together_s"]
        forms = f"{1e3 * row['apart_s']:18.2f}{1e3 * row['together_s']:18.2f}"
        lines.append(f"{row['tokens']:8}{row['rows']:8}{forms}{gain:8.2f}")
    return "\n".join([*lines, f"a device pairs batches up to the last length before a gain below {GAIN}"])


def main() -> int:
    """Measures, prints, and writes JSON where asked."""
    parser = argparse.ArgumentParser(prog="benchmarks.signs", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--bundle", type=Path, metavar="FOLDER", help="another one, exported with --both-signs"
    )
    parser.add_argument("--precision", choices=("fp32", "int8", "int4"), default="fp32", help="default: fp32")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--quick", action="store_true", help="the two shortest batches")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    try:
        folder = arguments.bundle or bundle_of("minilm", arguments.precision, both_signs=True)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    rows = measure(folder, arguments.threads, arguments.quick)
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
