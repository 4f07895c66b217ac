"""The toy program of tests/golden, ready to run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.core import Batch, Core
from device_runtime.zo.grid import round_to_grid
from device_runtime.zo.layout import Layout

GOLDEN = Path(__file__).parents[2] / "golden"


class Toy:
    """A core over toy.pte with a random adapter, and what is needed to feed it."""

    def __init__(self, threads: int = 1) -> None:
        self.shape: dict[str, Any] = json.loads((GOLDEN / "toy.json").read_text())
        rows = [(t["name"], t["segment"], t["shape"], t["exponent"]) for t in self.shape["layout"]]
        self.layout = Layout.build(rows)
        self.core = self.open(threads=threads)
        self.core.adapter[:] = self.random_adapter()

    def arguments(self) -> dict[str, Any]:
        tensors = [(t.segment, t.offset, t.count, t.exponent, list(t.shape)) for t in self.layout.tensors]
        names = ("segments", "batch_examples", "max_tokens", "hidden_size")
        program = {"program_path": str(GOLDEN / "toy.pte"), "layout": tensors}
        return program | {name: self.shape[name] for name in names}

    def open(self, **changes: Any) -> Core:
        return Core(**(self.arguments() | changes))

    def random_adapter(self, seed: int = 3) -> NDArray[np.float32]:
        values = np.random.default_rng(seed).normal(scale=0.3, size=self.layout.parameters)
        return round_to_grid(values, 20)

    def batch(self, seed: int, tokens: int = 8, weights: tuple[float, ...] = (1.0, 1.0, 0.5, 0.0)) -> Batch:
        rng, rows = np.random.default_rng(seed), self.shape["batch_examples"]
        mask = np.ones((rows, tokens), np.int64)
        for row in range(rows):
            mask[row, rng.integers(1, tokens + 1) :] = 0
        ids = rng.integers(0, self.shape["vocabulary"], (rows, tokens))
        return Batch(ids, mask, rng.integers(0, self.shape["classes"], rows), np.array(weights))


@pytest.fixture
def toy() -> Toy:
    return Toy()
