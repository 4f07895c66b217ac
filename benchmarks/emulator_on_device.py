"""The device's side of emulator.py, run on this machine and on the emulated one; prints its figures as JSON.

python -m benchmarks.emulator_on_device kernels
python -m benchmarks.emulator_on_device step BUNDLE TOKENS DIRECTIONS
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import device_runtime.command
import device_runtime.device
from benchmarks.processes import status
from benchmarks.program import open_core
from benchmarks.step_inputs import batch_arrays
from device_runtime import core
from device_runtime.bundle import Bundle
from device_runtime.core import _core, kernels
from device_runtime.zo.direction import Direction, Guide
from device_runtime.zo.layout import Layout
from device_runtime.zo.spsa import Update

EPSILON = 1e-2
COEFFICIENT = -1e-3


def sha256(values: NDArray[Any]) -> str:
    """Of an array's bytes."""
    return hashlib.sha256(values.tobytes()).hexdigest()


def random_kernels() -> dict[str, Any]:
    """Hashes of what the kernels make of random cases with guides and a scale, 200,000 parameters; and sizes.

    The cases are drawn as integers, because NumPy's normal numbers go through the C library's logarithm.
    """
    random = np.random.default_rng(7)
    layout = Layout.build([("a", 0, (65_537,), 20), ("b", 1, (101, 997), 18), ("c", 2, (33_766,), 22)])
    n = layout.parameters

    def fraction(bits: int) -> NDArray[np.float32]:
        return (random.integers(-(2**bits) + 1, 2**bits, n) / 2.0**bits).astype(np.float32)

    adapter = np.concatenate(
        [
            np.round(fraction(20)[t.span] * 2.0**t.exponent) * np.float32(2.0**-t.exponent)
            for t in layout.tensors
        ]
    ).astype(np.float32)
    guides = tuple(Guide(fraction(20) * np.float32(1 / 64), coefficient) for coefficient in (0.5, -1.75))
    scale = (random.integers(1, 1024, n) / 256.0).astype(np.float32)
    directions = (
        Direction(3),
        Direction(2**62 + 5, 0.7, scale, guides),
        Direction(9, 0.0, None, guides[:1], (1,)),
    )
    made: dict[str, Any] = {}
    for number, direction in enumerate(directions):
        moved = adapter.copy()
        made[f"norms of direction {number}"] = [
            value.hex() for value in kernels.squared_norms(direction, layout, EPSILON)
        ]
        kernels.perturb(moved, layout, direction, EPSILON, 1)
        made[f"direction {number} added"] = sha256(moved)
        kernels.perturb(moved, layout, direction, EPSILON, -2)
        made[f"direction {number} subtracted"] = sha256(moved)
        kernels.perturb(moved, layout, direction, EPSILON, 1)
        made[f"direction {number} restored"] = sha256(moved) == sha256(adapter)
    update = Update(EPSILON, 77, directions, (1e-3, -2e-3, 5e-4), (Guide(guides[1].values, 1e-3),))
    clamped = kernels.apply_update(adapter, layout, update)
    made |= {"update": sha256(adapter), "clamped": clamped}
    module = Path(str(_core.__file__))
    libraries = [file.stat().st_size for file in module.parent.glob("lib/*.so*")]
    return {"results": made, "core_bytes": module.stat().st_size, "libraries_bytes": sum(libraries)}


def step(folder: str, tokens: int, count: int) -> dict[str, Any]:
    """One evaluation, then `count` directions in all segments, then an update with fixed coefficients."""
    imported = status(os.getpid())["VmRSS"]
    bundle = Bundle.open(folder)
    device = open_core(bundle, threads=1)
    batch = core.Batch(*batch_arrays(bundle, tokens))
    segments = list(range(bundle.manifest.chain.segments + 1))
    directions = [core.Direction(seed) for seed in range(1, count + 1)]
    loss, examples, _ = device.evaluate([batch])  # loads the methods, too
    before = sha256(device.adapter)
    begin = time.perf_counter()
    measured = device.measure([batch], directions, EPSILON, segments)
    measured_s = time.perf_counter() - begin
    restored = sha256(device.adapter) == before
    device.update(EPSILON, 1, segments, directions, [COEFFICIENT] * count)
    memory = status(os.getpid())
    return {
        "loss": loss / examples,
        "rho": measured.rho.tolist(),
        "restored": restored,
        "updated_sha256": sha256(device.adapter),
        "direction_s": measured_s / count,
        "rows": bundle.manifest.chain.batch_examples,
        "program_bytes": bundle.program_path.stat().st_size,
        "imported_rss_bytes": imported,
        "peak_rss_bytes": memory["VmHWM"],
    }


def main(what: str, *arguments: str) -> None:
    """Prints one line."""
    assert device_runtime.command
    assert device_runtime.device  # imported for their memory: this is what `cooperllm device` holds
    if what == "kernels":
        figures = random_kernels()
    else:
        folder, tokens, count = arguments
        figures = step(folder, int(tokens), int(count))
    print(json.dumps({"machine": platform.machine(), "instructions": _core.instructions(), **figures}))


if __name__ == "__main__":
    main(*sys.argv[1:])
