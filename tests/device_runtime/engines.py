"""Engines for tests of real bundles."""

from __future__ import annotations

import numpy as np

from device_runtime.bundle import Bundle
from device_runtime.engine import Engine
from device_runtime.zo.grid import round_to_grid


def random_engine(bundle: Bundle) -> Engine:
    """A bundle's engine, with random values on the grid in every tensor of its adapter."""
    engine = Engine(bundle)
    values = np.random.default_rng(3).normal(scale=0.2, size=bundle.layout.parameters)
    for tensor in bundle.layout.tensors:
        engine.adapter[tensor.span] = round_to_grid(values[tensor.span], tensor.exponent)
    return engine
