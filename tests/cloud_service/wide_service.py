"""A service over an adapter whose guide takes its time on a slow link, and what it hands to streams."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloud_service.federation import Federation
from cloud_service.serve import Addresses, Service
from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb
from tests.cloud_service.fake_device import json_get
from tests.cloud_service.small_bundle import EXPONENT, write_bundle
from tests.cloud_service.small_service import small_job, started


def wide_layout() -> Layout:
    """Two segments and a head: 2 MB of guide."""
    return Layout.build(
        [
            ("layer.0.a", 0, (500, 500), EXPONENT),
            ("layer.1.a", 1, (500, 500), EXPONENT),
            ("head.weight", 2, (2, 7), EXPONENT),
        ]
    )


@dataclass(frozen=True)
class Wide:
    """A running service and where it is."""

    service: Service
    where: Addresses
    layout: Layout

    @property
    def targets(self) -> list[tuple[str, int]]:
        """gRPC and HTTP, as a proxy takes them."""
        return [("127.0.0.1", int(url.rpartition(":")[2])) for url in (self.where.grpc, self.where.http)]

    def sent(self, task_id: str) -> list[dict[str, Any]]:
        """What the operator reads of a task's guide on its way, in the first round."""
        tasks = json_get(self.where.http + "/v1/rounds/0", "operator")["tasks"]
        return next(task["guide_sent"] for task in tasks if task["task_id"] == task_id)


@contextmanager
def wide(folder: Path, devices: int, **changes: Any) -> Iterator[Wide]:
    """Serves a job whose guides are whole float32, unless changed, to a cohort of so many devices."""
    layout = wide_layout()
    bundle = write_bundle(folder / "bundle", layout)
    given = {"evaluate_every_rounds": 0, "directions_per_task": 1, "guide_level": 0} | changes
    job = small_job(bundle, cohort_size=devices, **given)
    service, where = started(bundle, folder / "data", job)
    try:
        yield Wide(service, where, layout)
    finally:
        assert service.stop()


class Handed:
    """What the service took from its iterators of chunks, by client, and how many of those are alive."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size_bytes: Counter[str] = Counter()
        self.pieces: list[tuple[int, int, int]] = []  # (segment, offset, bytes), as they were handed over
        self.starts: list[tuple[int, int]] = []  # (segment, byte) of every stream
        self.alive = 0
        self.not_ready: Callable[[], bool] = lambda: False
        original = Federation.stream_guides

        def counted(federation: Federation, client_id: str, request: pb.StreamGuidesRequest) -> Iterator[Any]:
            self.starts.append((request.first_segment, request.first_byte))
            return self._watched(client_id, original(federation, client_id, request))

        monkeypatch.setattr(Federation, "stream_guides", counted)

    def _watched(self, client_id: str, chunks: Iterator[Any]) -> Iterator[Any]:
        self.alive += 1
        try:
            for chunk in chunks:
                while self.not_ready():
                    yield None
                self.size_bytes[client_id] += len(chunk.data)
                self.pieces.append((chunk.segment, chunk.offset_bytes, len(chunk.data)))
                yield chunk
        finally:
            self.alive -= 1


def until(condition: Callable[[], bool]) -> None:
    """Waits, at most ten seconds."""
    end_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)
