"""Forward time of the exported program beside transformers on the same cores, and each process's memory.

    python -m benchmarks.forward [--model NAME] [--threads N,N] [--quick] [--json FILE] [--plot FILE]

Every row is a process of its own: the program in fp32, int8 and int4 in a device's process (the C++ core),
transformers' model as it is ("eager", with the attention it chooses itself) and through torch.compile.
All take the same batch, 8 real texts of up to 64 tokens with padding, and the same weights. The processes
live at the same time and run in turns, so that a busy machine slows all alike; a row's speed is the median
over the turns of (eager's time in the turn / its own). Torch runs the bare model, without the adapter's
products, which the program computes. Goals: fp32 at least 1.0 times as fast as eager, int8 1.8, int4 2.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.forward_models import SHAPES, bundle_of, source_of
from benchmarks.processes import Child

TOKENS = 64
GOALS = {"fp32": 1.0, "int8": 1.8, "int4": 2.0}
# Torch's worker threads go on spinning a little after a forward; they must not take the next row's cores.
REST_S = 0.25


def measure(name: str, threads: int, precisions: list[str], compiled: bool, turns: int) -> dict[str, Any]:
    """Row → figures, for one model on so many threads."""
    source, rows, children = str(source_of(name)), dict[str, Any](), dict[str, Child]()
    bundles: dict[str, Path] = {}
    for precision in precisions:
        try:
            bundles[precision] = bundle_of(name, precision)
        except RuntimeError as error:
            rows[precision] = {"error": str(error)}
    if "fp32" not in bundles:
        raise RuntimeError(f"{name}: {rows['fp32']['error']}")
    numbers = (str(TOKENS), str(threads))
    torch_rows = ["eager", "compiled"] if compiled else ["eager"]
    try:
        for kind in torch_rows:
            given = (kind, str(bundles["fp32"]), source, *numbers)
            children[kind] = Child("benchmarks.forward_in_torch", *given, threads=threads)
        for precision, folder in bundles.items():
            children[precision] = Child(
                "benchmarks.forward_on_device", str(folder), *numbers, threads=threads
            )
        rows |= _in_turns(children, turns)
        for precision, folder in bundles.items():
            rows[precision]["program_bytes"] = (folder / "program.pte").stat().st_size
    finally:
        for child in children.values():
            child.end()
    return rows


def _in_turns(children: dict[str, Child], turns: int) -> dict[str, Any]:
    logits = {row: child.ask("")["logits"] for row, child in children.items()}
    times_ms: dict[str, list[list[float]]] = {row: [] for row in children}
    for _ in range(turns):
        for row, child in children.items():
            time.sleep(REST_S)
            times_ms[row].append(child.ask("2")["times_ms"])
    eager = [min(turn) for turn in times_ms["eager"]]
    rows: dict[str, Any] = {}
    for row, child in children.items():
        best = [min(turn) for turn in times_ms[row]]
        memory = child.memory
        rows[row] = {
            "forward_ms": statistics.median(best),
            "least_ms": min(best),
            "speed": statistics.median(base / own for base, own in zip(eager, best, strict=True)),
            "logits_error": _distance(logits[row], logits["eager"]),
            **asdict(memory),
            "growth_rss_bytes": memory.growth_rss_bytes,
            "growth_anonymous_bytes": memory.growth_anonymous_bytes,
        }
    return rows


def _distance(logits: list[list[float]], other: list[list[float]]) -> float:
    """The largest difference of two rows of logits, in units of the second's standard deviation."""
    pairs = [
        (a, b) for row, wanted in zip(logits, other, strict=True) for a, b in zip(row, wanted, strict=True)
    ]
    return max(abs(a - b) for a, b in pairs) / statistics.pstdev(b for _, b in pairs)


def table(name: str, threads: int, rows: dict[str, Any]) -> str:
    """The figures for a terminal, memory in MB of 10^6 bytes, and what became of the goals."""
    heads = ("ms", "least ms", "x eager", "goal", "logits off", "peak RSS", "anonymous", "growth RSS")
    lines = [
        f"{name}, {threads} thread{'s' if threads > 1 else ''}",
        f"{'':10}" + "".join(f"{h:>12}" for h in heads),
    ]
    for row in [row for row in ("eager", "compiled", *GOALS) if row in rows]:
        figures = rows[row]
        if "error" in figures:
            lines.append(f"{row:10}  not exported: {figures['error']}")
            continue
        sizes = [figures[f"{key}_bytes"] / 1e6 for key in ("peak_rss", "peak_anonymous", "growth_rss")]
        lines.append(
            f"{row:10}{figures['forward_ms']:12.1f}{figures['least_ms']:12.1f}{figures['speed']:12.2f}"
            f"{verdict(row, figures):>12}{figures['logits_error']:12.1e}"
            + "".join(f"{size:12.0f}" for size in sizes)
        )
    return "\n".join(lines)


def verdict(row: str, figures: dict[str, Any]) -> str:
    """What became of a row's goal."""
    if row not in GOALS:
        return "-"
    return f"{GOALS[row]:.1f} {'met' if figures['speed'] >= GOALS[row] else 'MISSED'}"


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Bars of speed beside eager, with the goals; and of peak memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(results), figsize=(4.2 * len(results), 6.5), squeeze=False)
    for (above, below), result in zip(axes.T, results, strict=True):
        rows = {row: figures for row, figures in result["rows"].items() if "error" not in figures}
        names = [row for row in ("eager", "compiled", *GOALS) if row in rows]
        colours = ["#0969da" if row in GOALS else "#8c959f" for row in names]
        bars = above.bar(names, [rows[row]["speed"] for row in names], color=colours)
        above.bar_label(bars, fmt="%.2f")
        for place, row in enumerate(names):
            if row in GOALS:
                above.hlines(GOALS[row], place - 0.4, place + 0.4, colors="#cf222e", linestyles="dashed")
        above.margins(y=0.12)
        below.margins(y=0.12)
        above.set_title(f"{result['model']}, threads: {result['threads']}")
        above.set_ylabel("times as fast as eager (dashed: goal)")
        peaks = [rows[row]["peak_rss_bytes"] / 1e6 for row in names]
        below.bar_label(below.bar(names, peaks, color=colours), fmt="%.0f")
        below.set_ylabel("peak resident memory, MB")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> int:
    """Measures, prints, plots, and writes JSON where asked."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="benchmarks.forward", description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=SHAPES, action="append", help="default: all; may be repeated")
    parser.add_argument("--precision", choices=GOALS, action="append", help="default: all; fp32 always")
    parser.add_argument("--threads", help=f"default: {cores},1", metavar="N,N")
    parser.add_argument("--turns", type=int, default=12, help="turns of two forwards a row (default: 12)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--quick", action="store_true", help="MiniLM on all cores, 4 turns, no torch.compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--plot", type=Path, default=Path("runs/forward.png"), metavar="FILE",
                        help="default: runs/forward.png")  # fmt: skip
    arguments = parser.parse_args()
    quick = arguments.quick
    models = arguments.model or (["minilm"] if quick else list(SHAPES))
    counts = [int(n) for n in (arguments.threads or (str(cores) if quick else f"{cores},1")).split(",")]
    precisions = [p for p in GOALS if p == "fp32" or p in (arguments.precision or GOALS)]
    results = []
    try:
        for name in models:
            for threads in counts:
                compiled = not (quick or arguments.no_compile)
                rows = measure(name, threads, precisions, compiled, 4 if quick else arguments.turns)
                results.append({"model": name, "threads": threads, "tokens": TOKENS, "rows": rows})
                print(table(name, threads, rows), end="\n\n", flush=True)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    plot(results, arguments.plot)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
