"""A real service over a small bundle, with a public side in NumPy: no torch, no model.

Run as a program it serves until it is killed: small_service.py BUNDLE DATA_DIR JOB_JSON OPTIONS_JSON MOMENT
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from cloud_service.directions import Float32, Float64
from cloud_service.job import Job, from_table
from cloud_service.plan import RoundState
from cloud_service.serve import Addresses, ServeOptions, Service
from device_runtime.bundle import Bundle
from device_runtime.zo.layout import Layout
from tests.cloud_service.fake_device import target

QUICK: dict[str, Any] = {
    "name": "small",
    "rounds": 4,
    "cohort_size": 3,
    "estimator": "zgr",
    "public": "public.tsv",
    "start": "bundle",
    "directions_per_task": 4,
    "epsilon": 0.01,
    "learning_rate": 0.05,
    "momentum": 0.0,
    "evaluate_every_rounds": 2,
    "seed": 5,
    "lease_s": 30.0,
    "retry_min_ms": 20,
    "retry_max_ms": 40,
    "snapshot_every_rounds": 3,
}


class QuadraticPublic:
    """Public data whose loss is the devices' with another target: exact gradient, known curvature."""

    def __init__(self, layout: Layout, slow_s: float = 0.0) -> None:
        self.layout = layout
        self.target = target(99, layout.parameters)
        self.slow_s = slow_s

    def start(self, adapter: Float32) -> Float32:
        return adapter

    def scale(self, adapter: Float32) -> Float32:
        return (1.0 + np.arange(adapter.size, dtype=np.float32) % 3) / 2

    def sampled(self, state: RoundState) -> Iterator[tuple[int, Float64]]:
        squared = self.scale(state.adapter).astype(np.float64) ** 2
        gradient = squared * (state.adapter.astype(np.float64) - self.target)
        for segment in self.layout.segments:
            time.sleep(self.slow_s)
            yield segment, gradient[self.layout.segment_slice(segment)]

    def evaluate(self, adapter: Float32) -> tuple[float, int, int]:
        difference = adapter.astype(np.float64) - self.target
        return float(np.sum(difference * difference)) / 2, 1, 2


def small_job(bundle: Bundle, **changes: Any) -> Job:
    return from_table(QUICK | {"bundle": str(bundle.folder)} | changes)


def started(bundle: Bundle, data_dir: Path, job: Job, **options: Any) -> tuple[Service, Addresses]:
    """A service in this process on free ports. Stop it."""
    given = {"grpc_port": 0, "http_port": 0, "operator_token": "operator"} | options
    service = Service(job, bundle, QuadraticPublic(bundle.layout), ServeOptions(data_dir=data_dir, **given))
    return service, service.start()


def kill_at(service: Service, moment: int) -> None:
    """Ends this process by SIGKILL at the moment-th begin or commit of a transaction: just before it
    happens.
    """
    seen = itertools.count(1)

    def count(_: Any) -> None:
        if next(seen) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    for event in ("begin", "commit"):
        sa.event.listen(service.store.engine, event, count)


def main() -> None:
    bundle = Bundle.open(sys.argv[1])
    options, moment = json.loads(sys.argv[4]), int(sys.argv[5])
    service = Service(
        small_job(bundle, **json.loads(sys.argv[3])),
        bundle,
        QuadraticPublic(bundle.layout),
        ServeOptions(data_dir=Path(sys.argv[2]), operator_token="operator", **options),
    )
    if moment:
        kill_at(service, moment)
    service.start()
    print("ready", flush=True)
    service.wait()


if __name__ == "__main__":
    main()
