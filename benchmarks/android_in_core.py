"""The C++ core's side of android.py: answers each line with one step's figures, as StepBenchmark.kt does."""

from __future__ import annotations

import sys
import time

from benchmarks.processes import answer, turns, wait_for_reading
from benchmarks.program import open_core
from benchmarks.step_inputs import batch_arrays
from device_runtime import core
from device_runtime.bundle import Bundle

EPSILON = 1e-3
LEARNING_RATE = 1e-4


def main(folder: str, tokens: int, threads: int) -> None:
    """Loads, takes a first step, then one step and one bare forward for each line."""
    wait_for_reading()
    start = time.perf_counter()
    bundle = Bundle.open(folder)
    device = open_core(bundle, threads)
    batch = core.Batch(*batch_arrays(bundle, tokens))
    every_segment = list(range(bundle.manifest.chain.segments + 1))

    def step(seed: int) -> None:
        direction = [core.Direction(seed)]
        rho = float(device.measure([batch], direction, EPSILON, every_segment).rho[0])
        device.update(EPSILON, seed, every_segment, direction, [-LEARNING_RATE * rho])

    step(0)
    answer({"load_ms": 1e3 * (time.perf_counter() - start)})
    for seed, _ in enumerate(turns(), 1):
        device.reset_counters()
        begin = time.perf_counter()
        step(seed)
        took_ms = 1e3 * (time.perf_counter() - begin)
        inside_ms = 1e-6 * device.counters.forward_ns
        begin = time.perf_counter()
        device.logits(batch)
        forward_ms = 1e3 * (time.perf_counter() - begin)
        answer({"step_ms": took_ms, "overhead": took_ms / inside_ms - 1, "forward_ms": forward_ms})


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
