"""A child of chain.py: a device with one window of the chain in memory at a time, or with all of it."""

from __future__ import annotations

import os
import sys
import time

import device_runtime.command
import device_runtime.device
from benchmarks.processes import answer, status, turns, wait_for_reading
from benchmarks.step_inputs import batch_arrays
from device_runtime.bundle import Bundle
from device_runtime.directions import Direction
from device_runtime.engine import Engine
from device_runtime.local_update import Batch

EPSILON = 1e-3


class Device:
    """An engine and one batch, at a stage: `first`, `exit` and λ, with the states that enter `first`."""

    def __init__(self, folder: str, tokens: int, threads: int) -> None:
        bundle = Bundle.open(folder)
        self.engine = Engine(bundle, threads)
        self.batch = self.entering = Batch(*batch_arrays(bundle, tokens))
        self.at = 0
        self.head = bundle.manifest.chain.segments
        self.stage: tuple[int, int, float] = (0, self.head, 0.0)

    def enter(self, first: int, exit_segment: int, global_weight: float) -> None:
        """Moves on: the frozen segments run once more, one at a time in memory, and are let go of."""
        while self.at < first:
            self.engine.keep_window(self.at, self.at + 1)
            hidden = self.engine.hidden(self.entering, self.at + 1)
            self.at += 1
            self.entering = self.batch._replace(hidden=hidden, first_segment=self.at)
        self.stage = (first, exit_segment, global_weight)
        self.engine.keep_window(first, exit_segment, global_weight > 0)

    def step(self, directions: int) -> None:
        """Measures so many directions of the window and the head."""
        first, exit_segment, global_weight = self.stage
        active = [*range(first, exit_segment), self.head]
        chosen = [Direction(seed, 1.0, [], active) for seed in range(directions)]
        end = 0 if exit_segment == self.head else exit_segment
        self.engine.measure([self.entering], chosen, EPSILON, active, end, global_weight)


def held_bytes() -> dict[str, int]:
    """What this process holds now."""
    sizes = status(os.getpid())
    return {"rss_bytes": sizes["VmRSS"], "anonymous_bytes": sizes["RssAnon"]}


def main(folder: str, tokens: int, directions: int, threads: int) -> None:
    """Each line is "FIRST EXIT LAMBDA" to enter a stage, or "step"."""
    assert device_runtime.command
    assert device_runtime.device  # imported for their memory: this is what `cooperllm device` holds
    wait_for_reading()
    device = Device(folder, tokens, threads)
    answer(held_bytes())
    for line in turns():
        if line == "step":
            begin = time.perf_counter()
            device.step(directions)
            answer({"step_s": time.perf_counter() - begin, **held_bytes()})
            continue
        first, exit_segment, global_weight = line.split()
        device.enter(int(first), int(exit_segment), float(global_weight))
        device.step(1)
        answer({"loaded": device.engine.loaded_methods, **held_bytes()})


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
