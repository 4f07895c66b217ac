"""The program's side of forward.py: a device's process, its C++ core and one forward after another."""

from __future__ import annotations

import sys
import time

import device_runtime.command
import device_runtime.device
from benchmarks.processes import answer, turns, wait_for_reading
from benchmarks.program import open_core
from benchmarks.step_inputs import ragged_arrays
from device_runtime import core
from device_runtime.bundle import Bundle


def main(folder: str, tokens: int, threads: int) -> None:
    """Loads and warms up at the first line it is sent; runs as many forwards as each later line says."""
    assert device_runtime.command
    assert device_runtime.device  # imported for their memory: this is what `cooperllm device` holds
    wait_for_reading()
    bundle = Bundle.open(folder)
    device = open_core(bundle, threads)
    batch = core.Batch(*ragged_arrays(bundle, tokens))
    for _ in range(3):
        device.evaluate([batch])
    answer({"logits": device.logits(batch).tolist()})
    for line in turns():
        times_ms = []
        for _ in range(int(line)):
            begin = time.perf_counter()
            device.evaluate([batch])
            times_ms.append(1e3 * (time.perf_counter() - begin))
        answer({"times_ms": times_ms})


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
