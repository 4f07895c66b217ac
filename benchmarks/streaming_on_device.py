"""The device's side of streaming_order.py: a process with a device's imports that measures in one order."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
from numpy.typing import NDArray

import device_runtime.command
import device_runtime.device
from benchmarks.processes import finish, status, wait_for_reading
from benchmarks.step_inputs import batch_arrays
from device_runtime.bundle import Bundle
from device_runtime.directions import Direction
from device_runtime.engine import Engine
from device_runtime.local_update import Batch

EPSILON = 1e-3


class Task:
    """Directions along guides of their own, of which each slice can be had again at any time."""

    def __init__(self, folder: str, tokens: int, directions: int) -> None:
        self.engine = Engine(Bundle.open(folder))
        self.segments = list(range(self.engine.head_segment + 1))
        self.batches = [Batch(*batch_arrays(self.engine.bundle, tokens))]
        self.names = [number.to_bytes(32, "big") for number in range(directions)]
        self.directions = [Direction(seed, 1.0, [(seed, 1.0)], self.segments) for seed in range(directions)]
        self.most_guide_bytes = self.most_anonymous_bytes = 0

    def slice_of(self, name: bytes, segment: int) -> NDArray[np.float32]:
        """As if decoded from its bytes on disk."""
        random = np.random.default_rng((name[-1], segment))
        return random.standard_normal(self.engine.segment_counts[segment], np.float32)

    def look(self) -> None:
        """Notes what is held now."""
        self.most_guide_bytes = max(self.most_guide_bytes, self.engine.guide_bytes)
        self.most_anonymous_bytes = max(self.most_anonymous_bytes, status(os.getpid())["RssAnon"])

    def measure(self, group: int) -> tuple[list[float], float]:
        """The scalars and the seconds of measuring alone. 0: on whole guides."""
        return self.streaming(group) if group else self.whole()

    def whole(self) -> tuple[list[float], float]:
        """All guides first, then direction by direction."""
        self.engine.set_guides({n: {s: self.slice_of(n, s) for s in self.segments} for n in self.names})
        self.look()
        start_s = time.perf_counter()
        measured = self.engine.measure(self.batches, self.directions, EPSILON, self.segments)
        took_s = time.perf_counter() - start_s
        self.look()
        return measured.rho.tolist(), took_s

    def streaming(self, group: int) -> tuple[list[float], float]:
        """So many directions at a time, segment by segment, with the next one's guides there already."""
        rho: list[float] = []
        took_s = 0.0
        for first in range(0, len(self.names), group):
            found, group_s = self._group(slice(first, first + group))
            rho, took_s = rho + found, took_s + group_s
        return rho, took_s

    def _group(self, chosen: slice) -> tuple[list[float], float]:
        engine, names = self.engine, self.names[chosen]
        engine.name_guides(dict.fromkeys(self.names, self.segments))
        start_s = time.perf_counter()
        segments = engine.begin(self.batches, self.directions[chosen], EPSILON, self.segments)
        took_s = time.perf_counter() - start_s
        arrived = 0
        for place, segment in enumerate(segments):
            for arriving in segments[arrived : place + 2]:
                for name in names:
                    engine.set_guide_segment(name, arriving, self.slice_of(name, arriving))
            arrived = place + 2
            self.look()
            start_s = time.perf_counter()
            engine.advance()
            took_s += time.perf_counter() - start_s
            self.look()
            for name in names:
                engine.clear_guide_segment(name, segment)
        return engine.finish().rho.tolist(), took_s


def main(folder: str, tokens: int, directions: int, group: int, repeats: int) -> None:
    """Measures once for memory, then `repeats` times by turns with whole guides for time."""
    assert device_runtime.command
    assert device_runtime.device  # imported for their memory: this is what `cooperllm device` holds
    wait_for_reading()
    task = Task(folder, tokens, directions)
    task.engine.measure(task.batches, [Direction(1, 1.0, [], task.segments)], EPSILON, task.segments)
    before_bytes = status(os.getpid())["RssAnon"]
    scalars, _ = task.measure(group)
    by_segment = [4 * directions * count for count in task.engine.segment_counts.values()]
    figures = {
        "group": group,
        "scalars": scalars,
        "guide_bytes": task.most_guide_bytes,
        "two_largest_segments_bytes": sum(sorted(by_segment)[-2:]),
        "whole_guide_bytes": sum(by_segment),
        "state_bytes": 2 * group * task.engine.begun_bytes(task.batches)[0],
        "growth_bytes": task.most_anonymous_bytes - before_bytes,
    }
    turns = [(task.measure(0)[1], task.measure(group)[1]) for _ in range(repeats)]
    finish({**figures, "whole_s": [pair[0] for pair in turns], "took_s": [pair[1] for pair in turns]})


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
