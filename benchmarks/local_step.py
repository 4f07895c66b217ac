"""A local step on a device: its time beyond its bare forwards, and its memory beside the same step in torch.

    python -m benchmarks.local_step [--shape NAME] [--precision P] [--bundle FOLDER] [--threads N]
                                    [--steps N] [--quick] [--json FILE]

Processes, one after another, take the same batch (real text, 8 examples of 64 tokens), model and
adapter: a device (everything that `cooperllm device` imports, the C++ core), and torch, importing only what
it uses, with MeZO and with AdamW, each on all weights (as published) and on the adapter alone. Goals: the
core's time outside the program at most 3 % of the time inside it; a step 3 times as fast as MeZO on all
weights and twice as fast as MeZO on the adapter; what a step holds beyond the loaded program at most 1.1
times what a forward does; memory at most a quarter of MeZO's and a tenth of AdamW's on all weights, as a
whole and as growth above the imports. Torch maps its weights from their file and reads them there, so in the
rows of the adapter alone its growth holds hardly more than activations.

The shapes other than MiniLM have random weights. OPT-1.3B's leaves AdamW on all weights out: weights,
gradients and both moments are 21 GB in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.export_models import checkpoint
from benchmarks.forward_models import SHAPES, bundle_of, source_of
from benchmarks.processes import Memory, run_child

TOKENS = 64
MAX_OVERHEAD = 0.03
MAX_HELD = 1.1  # by a step, beside a forward
# Row → (times as fast as it at least, share of its memory at most), where that is a goal.
GOALS: dict[str, tuple[float | None, float | None]] = {
    "MeZO, all weights": (3.0, 0.25),
    "MeZO, adapter": (2.0, None),
    "AdamW, adapter": (None, None),
    "AdamW, all weights": (None, 0.1),
}
LARGE = "opt-1.3b"
ROWS = {
    "device": ("benchmarks.step_on_device",),
    "MeZO, all weights": ("benchmarks.step_in_torch", "mezo", "all"),
    "MeZO, adapter": ("benchmarks.step_in_torch", "mezo", "adapter"),
    "AdamW, adapter": ("benchmarks.step_in_torch", "adamw", "adapter"),
    "AdamW, all weights": ("benchmarks.step_in_torch", "adamw", "all"),
}
MEASURES = ("peak_rss", "peak_anonymous", "growth_rss", "growth_anonymous")


def default_bundle() -> Path:
    """MiniLM in fp32, every segment active, exported once and kept in the user's cache."""
    return bundle_of("minilm", "fp32")


def source_folder(shape: str) -> Path:
    """The folder with a shape's weights."""
    return checkpoint(shape) if shape == LARGE else source_of(shape)


def measure(folder: Path, source: Path, steps: int, threads: int, names: list[str]) -> dict[str, Any]:
    """Runs these rows; memory in bytes, times as the median over the steps."""
    rows: dict[str, Any] = {}
    for name in names:
        module, *arguments = ROWS[name]
        files = [str(folder)] if name == "device" else [str(folder), str(source)]
        numbers = [str(TOKENS), str(steps), str(threads)]
        memory, figures = run_child(module, *arguments, *files, *numbers, threads=threads)
        rows[name] = figures | asdict(memory) | _growth(memory)
    return rows


def _growth(memory: Memory) -> dict[str, int]:
    return {
        "growth_rss_bytes": memory.growth_rss_bytes,
        "growth_anonymous_bytes": memory.growth_anonymous_bytes,
    }


def table(rows: dict[str, Any]) -> str:
    """The figures for a terminal, in MB of 10^6 bytes, and what became of the goals."""
    heads = ("step ms", "imports", "peak RSS", "anonymous", "growth RSS", "growth anon.")
    lines = [f"{'MB':18}" + "".join(f"{head:>14}" for head in heads)]
    for name, row in rows.items():
        sizes = [row["imported_rss_bytes"], *(row[f"{measure}_bytes"] for measure in MEASURES)]
        lines.append(f"{name:18}{row['step_ms']:14.1f}" + "".join(f"{size / 1e6:14.1f}" for size in sizes))
    device = rows["device"]
    overhead = device["overhead"]
    lines += [
        "",
        f"overhead beyond the bare forwards: {overhead:.2%} (goal: at most {MAX_OVERHEAD:.0%})",
        f"one bare forward: {device['forward_ms']:.1f} ms; bundle checked in {device['check_bundle_ms']:.0f} "
        f"ms, program loaded in {device['load_ms']:.0f} ms",
    ]
    held = device["step_bytes"] / device["inference_bytes"]
    lines.append(
        f"held beyond the loaded program: {device['step_bytes'] / 1e6:.1f} MB by a step, {held:.2f} times a "
        f"forward's (goal: at most {MAX_HELD})"
    )
    return "\n".join([*lines, *(beside(device, name, rows[name]) for name in list(rows)[1:])])


def beside(device: dict[str, Any], name: str, other: dict[str, Any]) -> str:
    """The device's speed and its memory, as shares of another process's by every measure."""
    faster, most = GOALS[name]
    parts = [
        (measure.replace("_", " "), device[f"{measure}_bytes"] / other[f"{measure}_bytes"])
        for measure in MEASURES
    ]
    shares = ", ".join(f"{measure} {share:.0%}" for measure, share in parts)
    speed = f"{other['step_ms'] / device['step_ms']:.1f} times as fast"
    speed += "" if faster is None else f" (goal: {faster:g})"
    return f"beside {name}: {speed}; {shares}" + ("" if most is None else f" (goal: at most {most:.0%})")


def main() -> int:
    """Measures, prints, and writes JSON where asked."""
    parser = argparse.ArgumentParser(prog="benchmarks.local_step", description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=(*SHAPES, LARGE), default="minilm", help="default: minilm")
    parser.add_argument("--precision", choices=("fp32", "int8", "int4"), default="fp32", help="default: fp32")
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="another bundle of the packaged MiniLM")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all")
    parser.add_argument("--steps", type=int, default=20, help="timed steps in each process (default: 20)")
    parser.add_argument("--quick", action="store_true", help="3 steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    steps = 3 if arguments.quick else arguments.steps
    names = [name for name in ROWS if arguments.shape != LARGE or name != "AdamW, all weights"]
    try:
        source = source_folder(arguments.shape)
        folder = arguments.bundle or bundle_of(arguments.shape, arguments.precision, source=source)
        rows = measure(folder, source, steps, arguments.threads, names)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(rows))
    if arguments.json:
        figures = {
            "shape": arguments.shape,
            "precision": arguments.precision,
            "tokens": TOKENS,
            "threads": arguments.threads,
            "steps": steps,
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
