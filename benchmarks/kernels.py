"""The kernels on a large adapter, beside what the machine's memory and Philox allow, NumPy and torch.

    python -m benchmarks.kernels [--parameters N] [--rounds N] [--quick] [--json FILE]

All in one run, taking turns, the least time of each: `perturb` and `restore` (+1; -2, +1) of N parameters and
`update` (one direction, stochastic rounding) beside a streaming read-modify-write of the same array (NumPy's
in-place add, every thread on its own part) and beside the Philox blocks that an update needs (one bit and 16
bits a parameter). Goals: perturb and restore at 70 % of that bandwidth; update at 70 % of the lesser of both.
The peers do the same perturbation: the NumPy twin, and torch as published MeZO does (fresh `torch.normal` of
the seed, scaled and added), on fewer parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.split import least_times
from device_runtime.core import _core, kernels
from device_runtime.zo import spsa
from device_runtime.zo.direction import Direction, rounded
from device_runtime.zo.layout import Layout

EXPONENT, EPSILON, SEED = 20, 1e-3, 7
MIN_SHARE = 0.70
TWIN_PARAMETERS = 1_000_000


def work_of(parameters: int, threads: int, pool: ThreadPoolExecutor) -> dict[str, Callable[[], object]]:
    """Name -> what is timed; each thread works on its own slice of one adapter."""
    theta = np.zeros(parameters, np.float32)
    cuts = [parameters * part // threads for part in range(threads + 1)]
    slices = [(begin, theta[begin:end]) for begin, end in pairwise(cuts)]

    def on_all(action: Callable[[int, NDArray[np.float32]], object]) -> Callable[[], object]:
        return lambda: list(pool.map(lambda part: action(*part), slices))

    def perturb(begin: int, part: NDArray[np.float32], multiplier: int) -> None:
        direction = _core.SliceDirection(SEED, 1.0, None, [], part.size)
        assert _core.perturb(part, begin, EXPONENT, EPSILON, direction, multiplier) is _core.Status.OK

    def restore(begin: int, part: NDArray[np.float32]) -> None:
        perturb(begin, part, -2)
        perturb(begin, part, +1)

    def update(begin: int, part: NDArray[np.float32]) -> None:
        direction = _core.SliceDirection(SEED, 1.0, None, [], part.size)
        assert (
            _core.update(part, begin, EXPONENT, EPSILON, SEED, [direction], [1e-6], [])[0] is _core.Status.OK
        )

    def philox(begin: int, part: NDArray[np.float32]) -> None:
        _core.xor_blocks(SEED, 0, begin // 128, part.size // 128)
        _core.xor_blocks(SEED, 1, begin // 8, part.size // 8)

    return {
        "bandwidth": on_all(lambda _, part: np.add(part, np.float32(0), out=part)),
        "philox": on_all(philox),
        "perturb": on_all(lambda begin, part: perturb(begin, part, +1)),
        "restore": on_all(restore),
        "update": on_all(update),
    }


def measure(parameters: int, threads: int, rounds: int) -> dict[str, float]:
    """Nanoseconds a parameter of each piece of work; `restore` for one of its two passes."""
    with ThreadPoolExecutor(threads) as pool:
        least = least_times(work_of(parameters, threads, pool), rounds)
    ns = {name: 1e9 * seconds / parameters for name, seconds in least.items()}
    ns["restore"] /= 2
    return ns


def peers() -> dict[str, float]:
    """Nanoseconds a parameter of the same perturbation in NumPy and, where it is installed, in torch."""
    layout = Layout.build([("w", 0, (TWIN_PARAMETERS,), EXPONENT)])
    direction, theta = Direction(SEED), np.zeros(TWIN_PARAMETERS, np.float32)
    begin = time.perf_counter()
    spsa.perturb(theta, layout, rounded(direction, layout, EPSILON), +1)
    found = {"numpy twin": 1e9 * (time.perf_counter() - begin) / TWIN_PARAMETERS}
    ours = np.zeros(TWIN_PARAMETERS, np.float32)
    kernels.perturb(ours, layout, direction, EPSILON, +1)
    assert np.array_equal(ours, theta)  # the same bits, so the same work
    try:
        import torch
    except ImportError:
        return found
    weights = torch.zeros(10 * TWIN_PARAMETERS)
    for _ in range(2):  # the second is warm
        begin = time.perf_counter()
        torch.manual_seed(SEED)
        weights += EPSILON * torch.normal(mean=0.0, std=1.0, size=weights.shape)
        found["torch, MeZO"] = 1e9 * (time.perf_counter() - begin) / weights.numel()
    return found


def table(rows: dict[int, dict[str, float]], others: dict[str, float]) -> str:
    """Nanoseconds a parameter, and each kernel as a share of what the machine allows."""
    lines = [f"{'threads':>8}{'kernel':>10}{'ns':>8}{'bandwidth':>11}{'Philox':>8}{'share':>8}"]
    for threads, ns in rows.items():
        for kernel in ("perturb", "restore", "update"):
            limit = ns["bandwidth"] if kernel != "update" else max(ns["bandwidth"], ns["philox"])
            share = limit / ns[kernel]
            met = "met" if share >= MIN_SHARE else "missed"
            lines.append(
                f"{threads:>8}{kernel:>10}{ns[kernel]:>8.2f}{ns['bandwidth']:>11.2f}{ns['philox']:>8.2f}{share:>8.0%}"
                f"  goal {MIN_SHARE:.0%} {met}"
            )
    one = next(iter(rows.values()))["perturb"]
    lines += [
        "",
        *(f"{name}: {ns:.1f} ns, {ns / one:.0f} times ours on one thread" for name, ns in others.items()),
    ]
    return "\n".join([f"instructions: {_core.instructions()}", *lines])


def main() -> int:
    """Measures, prints, and writes JSON where asked."""
    parser = argparse.ArgumentParser(prog="benchmarks.kernels", description=__doc__.split("\n")[0])
    parser.add_argument("--parameters", type=int, default=100_000_000, help="default: 100 million")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default: 7)")
    parser.add_argument("--quick", action="store_true", help="2 turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    counts = sorted({1, len(os.sched_getaffinity(0))})
    rows = {threads: measure(arguments.parameters, threads, rounds) for threads in counts}
    others = peers()
    print(table(rows, others))
    if arguments.json:
        figures = {"parameters": arguments.parameters, "ns_by_threads": rows, "peers_ns": others}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
