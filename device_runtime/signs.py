"""Whether both signs of a direction run in one forward: found out once on each device, and then remembered.

A bundle that was exported with --both-signs has every segment twice: for one adapter, and for two at once on
a batch that is there twice. The second form reads the frozen weights once for both signs, which pays while a
batch has few tokens; on long ones the work is the same and its memory is not. So the first engine of a bundle
times both on its last segment, length by length, and keeps the longest one that gained.

What it takes is one more copy of the packed weights, of the perturbed slices and of two hidden states; where
`max_memory_bytes` does not leave that much, the signs run one after the other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .directions import Direction
from .durable import read_sealed, write_sealed
from .engine import Engine
from .local_update import Batch

NAME = "signs"  # of the file in the store
GAIN = 1.05  # less is noise, and not worth the memory
TURNS = 3


def run_signs(
    engine: Engine, folder: Path, threads: int, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Lets an engine run both signs together on the batches where that is faster, measured now or before.

    Raises StoreError when the result cannot be written down.
    """
    if not engine.can_pair:
        return
    key = f"{engine.bundle.sha256} {threads}"
    most_tokens = _remembered(folder / NAME, key)
    if most_tokens is None:
        most_tokens = longest_gain(engine, clock)
        write_sealed(folder / NAME, json.dumps({"key": key, "most_tokens": most_tokens}).encode())
    engine.pair_up_to(most_tokens)


def longest_gain(engine: Engine, clock: Callable[[], float]) -> int:
    """The longest batch, in tokens a row, up to which one forward beats two; 0 where none does."""
    longest = 0
    for tokens in lengths(engine):
        apart, together = times(engine, tokens, clock)
        if apart < GAIN * together:
            break
        longest = tokens
    engine.unload_before(engine.head_segment)  # which of them the tasks want is not known yet
    return longest


def lengths(engine: Engine) -> list[int]:
    """The lengths that are tried, in tokens a row: each twice the one before, the longest last."""
    text = engine.bundle.manifest.text
    found = [text.pad_to_multiple_tokens]
    while found[-1] < text.max_tokens:
        found.append(min(2 * found[-1], text.max_tokens))
    return found


def times(engine: Engine, tokens: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds of a direction in the last segment, sign by sign and both together: the best of some turns,
    which alternate.
    """
    last = engine.head_segment - 1
    rows = engine.bundle.manifest.chain.batch_examples
    ones = np.ones((rows, tokens), np.int64)
    labels = ones if engine.bundle.manifest.chain.head_tokens else np.zeros(rows, np.int64)
    hidden = np.zeros((rows, tokens, engine.hidden_size), np.float32) if last else None
    batch = Batch(ones, ones, labels, np.ones(rows), hidden, last)
    exponents = [tensor.exponent for tensor in engine.bundle.layout.segment_tensors(last)]
    epsilon = 2.0 ** (6 - min(exponents))  # 64 steps of the coarsest grid
    best = {0: np.inf, tokens: np.inf}
    for turn in range(1 + TURNS):  # the first loads what it needs
        for most_tokens in best:
            engine.pair_up_to(most_tokens)
            start_s = clock()
            engine.measure([batch], [Direction(1, 1.0, [], [last])], epsilon, [last])
            taken_s = clock() - start_s
            if turn:
                best[most_tokens] = min(best[most_tokens], taken_s)
    engine.pair_up_to(0)
    return best[0], best[tokens]


def _remembered(path: Path, key: str) -> int | None:
    try:
        found = json.loads(read_sealed(path) or b"{}")
        return int(found["most_tokens"]) if found["key"] == key else None
    except (KeyError, TypeError, ValueError):
        return None
