"""A local step on a device: its time beyond its bare forwards, and its memory beside the same step in torch.

    python -m benchmarks.local_step [--bundle FOLDER] [--threads N] [--steps N] [--quick] [--json FILE]

Processes, one after another, take the same batch (real text, 8 examples of 64 tokens), model and
adapter: a device (everything that `cooperllm device` imports, the C++ core), and torch, importing only what
it uses, with MeZO and with AdamW, each on all weights (as published) and on the adapter alone. Goals: the
core's time outside the program at most 3 % of the time inside it; the device's memory at most a quarter of
torch's, as a whole and as growth above the imports. Torch maps its weights from their file and reads them
there, so in the rows of the adapter alone its growth holds hardly more than activations.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.processes import Memory, run_child

TOKENS = 64
MAX_OVERHEAD = 0.03
MAX_MEMORY_SHARE = 0.25
CLASSES = "alarms,calendar,lists_notes,media,messages,smart_home,weather"
ROWS = {
    "device": ("benchmarks.step_on_device",),
    "MeZO, all weights": ("benchmarks.step_in_torch", "mezo", "all"),
    "MeZO, adapter": ("benchmarks.step_in_torch", "mezo", "adapter"),
    "AdamW, adapter": ("benchmarks.step_in_torch", "adamw", "adapter"),
    "AdamW, all weights": ("benchmarks.step_in_torch", "adamw", "all"),
}
MEASURES = ("peak_rss", "peak_anonymous", "growth_rss", "growth_anonymous")


def default_bundle() -> Path:
    """The default bundle (MiniLM, fp32, every segment active), exported once and kept in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "cooperllm" / "benchmarks" / "minilm"
    if not (folder / "manifest.json").exists():
        print(f"exporting the default bundle to {folder}", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cooperllm", "export", "--classes", CLASSES, "--out", str(folder)]
        command += ["--precision", "fp32", "--fidelity-directions", "0"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def measure(folder: Path, steps: int, threads: int) -> dict[str, Any]:
    """Runs every row; memory in bytes, times as the median over the steps."""
    rows: dict[str, Any] = {}
    for name, (module, *arguments) in ROWS.items():
        numbers = [str(TOKENS), str(steps), str(threads)]
        memory, figures = run_child(module, *arguments, str(folder), *numbers, threads=threads)
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
    for other in list(rows)[1:]:
        lines.append(
            f"memory beside {other} (goal: at most {MAX_MEMORY_SHARE:.0%}): {shares(device, rows[other])}"
        )
    return "\n".join(lines)


def shares(device: dict[str, Any], other: dict[str, Any]) -> str:
    """The device's memory as a share of another process's, by every measure."""
    parts = ((name.replace("_", " "), device[f"{name}_bytes"] / other[f"{name}_bytes"]) for name in MEASURES)
    return ", ".join(f"{name} {share:.0%}" for name, share in parts)


def main() -> int:
    """Measures, prints, and writes JSON where asked."""
    parser = argparse.ArgumentParser(prog="benchmarks.local_step", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="default: MiniLM, exported once")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all")
    parser.add_argument("--steps", type=int, default=20, help="timed steps in each process (default: 20)")
    parser.add_argument("--quick", action="store_true", help="3 steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    steps = 3 if arguments.quick else arguments.steps
    try:
        rows = measure(arguments.bundle or default_bundle(), steps, arguments.threads)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(rows))
    if arguments.json:
        figures = {"tokens": TOKENS, "threads": arguments.threads, "steps": steps, "rows": rows}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
