"""A child of export_models.py: exports one checkpoint in a process of its own."""

from __future__ import annotations

import sys
import time

import torch

from benchmarks.processes import finish, wait_for_reading
from export.writer import Options, write_bundle

CLASSES = ("alarms", "calendar", "lists_notes", "media", "messages", "smart_home", "weather")


def main(source: str, folder: str, precision: str, threads: int) -> None:
    """Writes a bundle with the default options, and answers what it came to."""
    torch.set_num_threads(threads)
    wait_for_reading()
    started = time.perf_counter()
    options = Options(class_names=CLASSES, model=source, precision=precision)
    bundle = write_bundle(options, folder, lambda step: print(step, file=sys.stderr, flush=True))
    chain = bundle.manifest.chain
    finish(
        {
            "export_s": time.perf_counter() - started,
            "export_cpu_s": time.process_time(),
            "program_bytes": bundle.program_path.stat().st_size,
            "segments": chain.segments,
            "delegates": max(method.delegates for method in chain.methods),
            "adapter_parameters": bundle.layout.parameters,
        }
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
