"""A step of the Kotlin device beside one of the C++ core, both on this machine.

    scripts/android && python -m benchmarks.android [--threads N] [--steps N] [--quick] [--json FILE]

The Kotlin device runs on a desktop JVM here, over the desktop twin of ExecuTorch's Android classes: nothing
of it was measured on a phone. Both processes take the same batch (real text, 8 examples of 64 tokens), model
(MiniLM, LoRA, float32) and adapter, and take their steps in turn, so that what else the machine does meets
both. Goals: the Kotlin step's time outside the program at most 5 % of the time inside it; heap allocated by
a step small, whatever the number of parameters (android_heap.py). Memory is given beside that of a JVM of the
same flags that does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.android_heap import PARAMETERS, QUICK_PARAMETERS, bare_jvm, heap, heap_table
from benchmarks.forward_models import bundle_of
from benchmarks.processes import Child
from benchmarks.step_inputs import batch_arrays
from device_runtime.bundle import Bundle

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "device_runtime" / "android" / "executorch" / "target"
TWIN = ROOT / "build" / "android_twin" / "libexecutorch_twin.so"
TOKENS = 64
MAX_OVERHEAD = 0.05
MAX_ALLOCATED_BYTES = 100_000


def class_path() -> str:
    """The Kotlin device, its tests and what they need. Raises RuntimeError where they are not built."""
    listed = BUILT / "test-classpath.txt"  # written by the build
    if not TWIN.exists() or not listed.exists():
        raise RuntimeError("the Kotlin device is not built: run scripts/android")
    folders = [BUILT / name for name in ("test-classes", "classes")]
    return os.pathsep.join([*map(str, folders), listed.read_text().strip()])


def describe(bundle: Bundle, folder: Path) -> Path:
    """Write what StepBenchmark.kt reads: the program's shape, the batch, and the adapter beside it."""
    chain, text = bundle.manifest.chain, bundle.manifest.text
    ids, mask, labels, weights = batch_arrays(bundle, TOKENS)
    batch = {"tokens": TOKENS, "labels": labels.tolist(), "weights": weights.tolist()}
    batch |= {"input_ids": ids.ravel().tolist(), "attention_mask": mask.ravel().tolist()}
    described = {
        "program": str(bundle.program_path),
        "segments": chain.segments,
        "batch_examples": chain.batch_examples,
        "max_tokens": text.max_tokens,
        "hidden_size": chain.hidden_size,
        "classes": len(bundle.class_names),
        "layout": [asdict(tensor) for tensor in bundle.layout.tensors],
        "batch": batch,
    }
    (folder / "adapter.bin").write_bytes(bundle.adapter.astype("<f4").tobytes())
    path = folder / "program.json"
    path.write_text(json.dumps(described))
    return path


def java_command() -> list[str]:
    """What starts a JVM that has the device's classes. Raises RuntimeError where they are not built."""
    return ["java", "-Xshare:auto", f"-Dexecutorch.twin.library={TWIN}", "-cp", class_path()]


def measure(bundle: Bundle, folder: Path, steps: int, threads: int, java: Sequence[str]) -> dict[str, Any]:
    """Runs both in turn; medians over the steps, and the memory of each."""
    described = str(describe(bundle, folder))
    main_class = "org.cooperllm.executorch.StepBenchmark"
    numbers = str(TOKENS), str(threads)
    children = {
        "C++ core": Child("benchmarks.android_in_core", str(bundle.folder), *numbers, threads=threads),
        "Kotlin": Child(main_class, described, str(threads), threads=threads, program=java),
    }
    try:
        loads = {name: child.ask("") for name, child in children.items()}
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in children}
        for number in range(steps):
            for name, child in children.items():
                taken[name].append(child.ask(str(number + 1)))
        return {
            name: loads[name]
            | {key: statistics.median(one[key] for one in taken[name]) for key in taken[name][0]}
            | asdict(child.memory)
            | {"growth_rss_bytes": child.memory.growth_rss_bytes}
            for name, child in children.items()
        }
    finally:
        for child in children.values():
            child.end()


def table(rows: dict[str, Any], bare_bytes: int) -> str:
    """The figures for a terminal, in MB of 10^6 bytes, and what became of the goals."""
    heads = ("step ms", "forward ms", "beyond", "load ms", "before MB", "peak MB", "growth MB")
    lines = [f"{'':10}" + "".join(f"{head:>12}" for head in heads)]
    for name, row in rows.items():
        sizes = (row[f"{size}_rss_bytes"] / 1e6 for size in ("imported", "peak", "growth"))
        figures = (
            f"{row['step_ms']:12.1f}{row['forward_ms']:12.1f}{row['overhead']:12.2%}{row['load_ms']:12.0f}"
        )
        lines.append(f"{name:10}{figures}" + "".join(f"{size:12.1f}" for size in sizes))
    kotlin, core = rows["Kotlin"], rows["C++ core"]
    own_mb = (kotlin["peak_rss_bytes"] - bare_bytes) / 1e6
    return "\n".join(
        [
            *lines,
            "",
            f"a JVM of the same flags that does nothing: {bare_bytes / 1e6:.1f} MB; "
            f"the Kotlin device beside it: {own_mb:.1f} MB",
            "Kotlin on a desktop JVM, over the desktop twin of ExecuTorch's Android classes: not a phone.",
            f"time beyond the bare forwards: {kotlin['overhead']:.2%} (goal: at most {MAX_OVERHEAD:.0%})",
            f"a step takes {kotlin['step_ms'] / core['step_ms']:.2f} times the C++ core's",
            f"heap allocated by a step: {kotlin['allocated_bytes'] / 1e3:.1f} kB "
            f"(goal: at most {MAX_ALLOCATED_BYTES / 1e3:.0f})",
        ]
    )


def main() -> int:
    """Measures, prints, and writes JSON where asked."""
    parser = argparse.ArgumentParser(prog="benchmarks.android", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="another bundle of sorted texts")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--steps", type=int, default=30, help="timed steps in each process (default: 30)")
    parser.add_argument("--quick", action="store_true", help="5 steps, and n up to a million")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    steps = 5 if arguments.quick else arguments.steps
    try:
        java = java_command()
        bundle = Bundle.open(arguments.bundle or bundle_of("minilm", "fp32"))
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(bundle, Path(folder), steps, arguments.threads, java)
        allocated = heap(java, QUICK_PARAMETERS if arguments.quick else PARAMETERS)
        bare_bytes = bare_jvm(java)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(rows, bare_bytes), heap_table(allocated), sep="\n\n")
    if arguments.json:
        figures = {"tokens": TOKENS, "threads": arguments.threads, "steps": steps, "rows": rows}
        figures |= {"heap": allocated, "bare_jvm_rss_bytes": bare_bytes}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
