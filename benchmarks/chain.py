"""ChainFed: memory and time of each stage beside an end-to-end step, and what both learn.

    python -m benchmarks.chain [--bundle FOLDER] [--window Q] [--global-weight L] [--threads N] [--turns N]
                               [--no-accuracy] [--seeds N] [--quick] [--json FILE] [--plot FILE]

Two device processes take the same batch (real text, 8 examples of 64 tokens) and as many directions: one has
the window of a stage alone in memory and enters it with the frozen prefix's states, the other runs the whole
chain. They take turns, so that a busy machine slows both. Then `cooperllm simulate` trains both ways on its
own data, with the same bundle, rate, rounds and scalars. Goal: the last window's step takes at most 35 % of
an end-to-end step (ChainFed, arXiv 2604.06819).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.local_step import TOKENS
from benchmarks.processes import Child
from benchmarks.step_inputs import TEXTS
from cooperllm.simulate.model_cache import exported_bundle
from cooperllm.simulate.settings import WHOLE_CHAIN, to_toml
from device_runtime.bundle import Bundle
from device_runtime.examples import read_examples

DIRECTIONS = 8
MAX_SHARE = 0.35
HEADS = ("window", "step s", "share", "anonymous MB", "RSS MB")


def default_bundle() -> Path:
    """MiniLM with bottlenecks for the embedded data, as `cooperllm simulate` exports and keeps it."""
    names = sorted({example.label for example in read_examples(TEXTS)})
    return exported_bundle("", names, "bottleneck")[0]


def measure(folder: Path, window: int, weight: float, threads: int, turns: int) -> list[dict[str, Any]]:
    """One row a window, then the end-to-end one; seconds of DIRECTIONS directions, bytes."""
    segments = Bundle.open(folder).manifest.chain.segments
    numbers = [str(TOKENS), str(DIRECTIONS), str(threads)]
    children = [Child("benchmarks.chain_on_device", str(folder), *numbers, threads=threads) for _ in range(2)]
    whole, windowed = children
    try:
        opened = [child.ask("") for child in children][1]
        whole.ask(f"0 {segments} 0")
        rows, whole_s = [], []
        for first in range(segments - window + 1):
            exit_segment = first + window
            local = exit_segment == segments  # nothing behind it: its loss is the whole one
            entered = windowed.ask(f"{first} {exit_segment} {0.0 if local else weight}")
            pairs = [(whole.ask("step"), windowed.ask("step")) for _ in range(turns)]
            steps = [(base["step_s"], own["step_s"]) for base, own in pairs]
            whole_s += [base for base, _ in steps]
            rows.append({
                "window": f"{first}-{exit_segment - 1}", "step_s": min(own for _, own in steps),
                "share": statistics.median(own / base for base, own in steps),
                **{key: pairs[-1][1][key] for key in ("anonymous_bytes", "rss_bytes")},
                "loaded": entered["loaded"],
            })  # fmt: skip
        held = {key: whole.ask("step")[key] for key in ("anonymous_bytes", "rss_bytes")}
        rows.append({"window": "end to end", "step_s": min(whole_s), "share": 1.0, **held})
        for row in rows:
            row["opened_anonymous_bytes"] = opened["anonymous_bytes"]
        return rows
    finally:
        for child in children:
            child.end()


def accuracies(folder: Path, seeds: int) -> dict[str, Any]:
    """Way → what `cooperllm simulate` says of it, for people and programs."""
    found: dict[str, Any] = {}
    ways = {"chainfed": "chainfed", "end to end": "isotropic"}
    with tempfile.TemporaryDirectory(prefix="cooperllm-chain-") as work:
        job = Path(work) / "job.toml"
        job.write_text(to_toml(WHOLE_CHAIN))
        for way, estimator in ways.items():
            command = [sys.executable, "-m", "cooperllm", "simulate", "--bundle", str(folder)]
            command += ["--estimator", estimator, "--job", str(job), "--seeds", str(seeds), "--no-baselines"]
            command += ["--out", str(Path(work) / way.replace(" ", "-")), "--format", "json"]
            print(f"simulating {way}", file=sys.stderr, flush=True)
            done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                raise RuntimeError(f"cooperllm simulate --estimator {estimator} failed: see above")
            found[way] = json.loads(done.stdout)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The figures for a terminal, in MB of 10^6 bytes, and what became of the goal."""
    lines = ["".join(f"{head:>14}" for head in HEADS)]
    for row in rows:
        cells = (row["window"], f"{row['step_s']:.3f}", f"{row['share']:.1%}",
                 f"{row['anonymous_bytes'] / 1e6:.1f}", f"{row['rss_bytes'] / 1e6:.1f}")  # fmt: skip
        lines.append("".join(f"{cell:>14}" for cell in cells))
    share, opened = rows[-2]["share"], rows[0]["opened_anonymous_bytes"]
    verdict = "met" if share <= MAX_SHARE else "MISSED"
    grown = [(row["anonymous_bytes"] - opened) / 1e6 for row in (rows[-2], rows[-1])]
    lines += [
        "",
        f"last window's step beside end to end: {share:.1%} (goal: at most {MAX_SHARE:.0%}, {verdict})",
        f"memory beyond the opened bundle ({opened / 1e6:.0f} MB): last window {grown[0]:.1f} MB, end to end "
        f"{grown[1]:.1f} MB",
    ]
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of time and of memory by stage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8))
    names = [row["window"] for row in rows]
    colours = ["#0969da"] * (len(rows) - 1) + ["#8c959f"]
    left.bar_label(left.bar(names, [row["step_s"] for row in rows], color=colours), fmt="%.2f")
    left.axhline(MAX_SHARE * rows[-1]["step_s"], color="#cf222e", linestyle="dashed")
    left.set_ylabel(f"seconds of {DIRECTIONS} directions (dashed: goal)")
    sizes = [row["anonymous_bytes"] / 1e6 for row in rows]
    right.bar_label(right.bar(names, sizes, color=colours), fmt="%.0f")
    right.set_ylabel("anonymous memory, MB")
    for axes in (left, right):
        axes.set_xlabel("segments of the window")
        axes.margins(y=0.12)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> int:
    """Measures, prints, plots, and writes JSON where asked."""
    parser = argparse.ArgumentParser(prog="benchmarks.chain", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="default: MiniLM with bottlenecks")
    parser.add_argument("--window", type=int, default=2, metavar="Q", help="segments (default: 2)")
    parser.add_argument("--global-weight", type=float, default=0.2, metavar="L", help="default: 0.2")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all")
    parser.add_argument("--turns", type=int, default=8, help="turns a stage (default: 8)")
    parser.add_argument("--no-accuracy", action="store_true", help="leave the training out")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of the training (default: 1)")
    parser.add_argument("--quick", action="store_true", help="2 turns, no training")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--plot", type=Path, default=Path("runs/chain.png"), metavar="FILE",
                        help="default: runs/chain.png")  # fmt: skip
    arguments = parser.parse_args()
    folder = arguments.bundle or default_bundle()
    turns = 2 if arguments.quick else arguments.turns
    try:
        rows = measure(folder, arguments.window, arguments.global_weight, arguments.threads, turns)
        print(table(rows), flush=True)
        plot(rows, arguments.plot)
        skip = arguments.quick or arguments.no_accuracy
        trained = {} if skip else accuracies(folder, arguments.seeds)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    for way, said in trained.items():
        print(f"{way:12} {100 * said['mean_accuracy']['cooperllm']:5.1f} % accuracy, "
              f"{said['duration_s']:.0f} s, seeds: {arguments.seeds}")  # fmt: skip
    if arguments.json:
        figures = {"threads": arguments.threads, "rows": rows, "simulations": trained}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
