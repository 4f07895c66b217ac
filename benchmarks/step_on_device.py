"""The device's side of local_step.py: a process with a device's imports, one step after another."""

from __future__ import annotations

import os
import statistics
import sys
import time

import device_runtime.command
import device_runtime.device
from benchmarks.processes import finish, status, wait_for_reading
from benchmarks.program import open_core
from benchmarks.step_inputs import batch_arrays
from device_runtime import core
from device_runtime.bundle import Bundle

EPSILON = 1e-3
LEARNING_RATE = 1e-4


def anonymous_bytes() -> int:
    """What this process holds now."""
    return status(os.getpid())["RssAnon"]


def main(folder: str, tokens: int, steps: int, threads: int) -> None:
    """Loads, warms up and times `steps` steps of one direction in all segments, and bare forwards."""
    assert device_runtime.command
    assert device_runtime.device  # imported for their memory: this is what `cooperllm device` holds
    wait_for_reading()
    start = time.perf_counter()
    bundle = Bundle.open(folder)
    segments = bundle.manifest.chain.segments
    opened = time.perf_counter()
    device = open_core(bundle, threads)
    loaded = time.perf_counter()
    batch = core.Batch(*batch_arrays(bundle, tokens))
    every_segment = list(range(segments + 1))

    at_load_bytes = anonymous_bytes()
    device.logits(batch)
    inference_bytes = anonymous_bytes() - at_load_bytes

    def step(seed: int) -> None:
        direction = [core.Direction(seed)]
        rho = float(device.measure([batch], direction, EPSILON, every_segment).rho[0])
        device.update(EPSILON, seed, every_segment, direction, [-LEARNING_RATE * rho])

    step(0)
    step_bytes = anonymous_bytes() - at_load_bytes
    step_ms, overheads, forward_ms = [], [], []
    for seed in range(1, steps + 1):
        device.reset_counters()
        begin = time.perf_counter()
        step(seed)
        step_ms.append(1e3 * (time.perf_counter() - begin))
        counted = device.counters
        overheads.append((counted.total_ns - counted.forward_ns) / counted.forward_ns)
        begin = time.perf_counter()
        device.logits(batch)
        forward_ms.append(1e3 * (time.perf_counter() - begin))
    finish(
        {
            "step_ms": statistics.median(step_ms),
            "forward_ms": statistics.median(forward_ms),
            "overhead": statistics.median(overheads),
            "check_bundle_ms": 1e3 * (opened - start),
            "load_ms": 1e3 * (loaded - opened),
            "inference_bytes": inference_bytes,
            "step_bytes": step_bytes,
        }
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
