"""A child of programs.py: lowers one checkpoint to one program, or to a program a method."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from benchmarks.processes import finish, wait_for_reading
from export.lowering import lower
from export.writer import Options, describe


def main(source: str, folder: str, precision: str, way: str, threads: int) -> None:
    """Writes the programs into a folder, and answers the time and what each method plans."""
    torch.set_num_threads(threads)
    wait_for_reading()
    started = time.perf_counter()
    options = Options(
        class_names=(), model=source, task="causal_lm", template="{text} answer:", precision=precision
    )
    manifest, network, start, _ = describe(options)
    names = ["embed", *(f"segment_{k}" for k in range(network.segments)), "head"]
    planned = []
    for group in [names] if way == "one" else [[name] for name in names]:
        lowered = lower(network, start.layout, options.batch_examples, precision=precision, only=group)
        with (Path(folder) / f"{group[0]}.pte").open("wb") as file:
            lowered.write(file)
        planned += [method.planned_bytes for method in lowered.methods]
        print(f"{manifest.family}: lowered {', '.join(group)}", file=sys.stderr, flush=True)
    finish({"export_s": time.perf_counter() - started, "planned_bytes": planned})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
