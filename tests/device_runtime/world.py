"""One device with a scripted cloud, the toy bundle on the real core, and a clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from device_runtime.budget import Budget
from device_runtime.bundle import Bundle
from device_runtime.conditions import Conditions
from device_runtime.engine import Engine
from device_runtime.examples import Example
from device_runtime.holdings import Holdings
from device_runtime.journal import Event
from device_runtime.limits import Limits, Watch
from device_runtime.session import Outcome, Session
from device_runtime.store import Store
from device_runtime.versions import adapter_sha256
from protos import federation_pb2 as pb

from .fake_cloud import FakeCloud
from .toy_bundle import HEAD, open_toy_bundle, snapshot_bytes, toy_adapter, toy_examples

Float32 = NDArray[np.float32]


class Machine(Conditions, Protocol):
    """What a device's work depends on."""

    def clock(self) -> float: ...

    def pause(self, seconds: float) -> None: ...


class Quiet:
    """A machine on which nothing is asked and time stands still."""

    def now(self) -> dict[str, bool | None]:
        return {}

    def clock(self) -> float:
        return 0.0

    def pause(self, seconds: float) -> None:
        raise AssertionError("nobody should wait here")


class World:
    """A device's folder and its cloud; `start` begins another process on the same folder."""

    def __init__(
        self,
        folder: Path,
        examples: Iterable[Example] | None = None,
        budget: Budget | None = None,
        make_engine: Callable[[Bundle], Engine] = Engine,
        machine: Machine | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.machine, self.limits = machine or Quiet(), limits
        self.stopped = False
        self.folder, self.make_engine = folder, make_engine
        self.budget = budget or Budget(64)
        self.bundle = open_toy_bundle(folder / "bundle")
        self.cloud = FakeCloud()
        self.bundle_sha256 = self.cloud.serve_folder(self.bundle.folder)
        self.examples = list(toy_examples(300) if examples is None else examples)
        self.adapter = toy_adapter(self.bundle.layout, seed=9)
        self.events: list[Event] = []
        self.now_s = 1000.0
        self.ids = 0
        self.store = Store(folder / "store")
        self._open()

    def start(self) -> None:
        """Another process: nothing is known but what the store has."""
        self.store.close()
        self.store = Store(self.folder / "store")
        self._open()

    def _open(self) -> None:
        self.holdings = Holdings(self.store, self.cloud, self.make_engine)
        self.watch = Watch(self.limits, self.machine, self.machine.clock, lambda: self.stopped)
        self.session = Session(
            self.cloud, self.store, self.holdings, lambda names: self.examples,
            uniform=lambda low, high: (low + high) / 2, gauss=lambda: 0.0, budget=self.budget,
            on_event=self.events.append, time_s=self._clock, new_id=self._new_id,
            watch=self.watch, pause=self.machine.pause, clock=self.machine.clock,
        )  # fmt: skip

    def _clock(self) -> float:
        self.now_s += 1.0
        return self.now_s

    def _new_id(self) -> str:
        self.ids += 1
        return f"report-{self.ids}"

    def turn(self, *replies: pb.CheckInReply | Exception) -> Outcome:
        """One turn; the cloud's next answers to check-ins are these."""
        self.cloud.replies += replies
        return self.session.turn()

    def told(self) -> list[str]:
        """The events since the last look, in short."""
        names = [_short(event) for event in self.events]
        self.events.clear()
        return names

    def snapshot(self, adapter: Float32, version: int) -> pb.VersionUpdate:
        """An update to this adapter, whatever the device holds."""
        artifact = self.cloud.serve(snapshot_bytes(self.bundle.layout, adapter))
        return pb.VersionUpdate(version=version, adapter_sha256=adapter_sha256(adapter), snapshot=artifact)

    def unchanged(self) -> pb.VersionUpdate:
        """The update for a device that holds version 1 already."""
        sha256 = adapter_sha256(self.adapter)
        return pb.VersionUpdate(version=1, adapter_sha256=sha256, unchanged=pb.Unchanged())

    def task(self, number: int = 1, update: pb.VersionUpdate | None = None, **kind: Any) -> pb.CheckInReply:
        """A task of round `number`: about version 1 by snapshot, four directions, unless told otherwise."""
        task = pb.Task(task_id=f"task-{number}", round=number, bundle_sha256=self.bundle_sha256)
        task.update.CopyFrom(update or self.snapshot(self.adapter, 1))
        for name, message in (kind or {"directions": directions()}).items():
            getattr(task, name).CopyFrom(message)
        return pb.CheckInReply(task=task)

    @property
    def engine(self) -> Engine:
        """The engine in use; a turn has loaded it."""
        assert self.holdings.engine is not None
        return self.holdings.engine

    @property
    def status(self) -> str:
        """The status of the last report, in short."""
        return pb.ReportStatus.Name(self.cloud.reports[-1].status).removeprefix("REPORT_STATUS_")


def directions(count: int = 4, batch_seed: int = 5) -> pb.DirectionsTask:
    """One step with `count` directions over all segments."""
    direction = pb.Direction(seed=3, count=count, isotropic_scale=1.0)
    step = pb.Step(batch_seed=batch_seed, batch_examples=8, directions=[direction])
    return pb.DirectionsTask(epsilon=0.01, active_segments=[0, 1, HEAD], steps=[step])


def retry(min_ms: int = 0, max_ms: int = 0) -> pb.CheckInReply:
    """Nothing to do for now."""
    return pb.CheckInReply(retry=pb.RetryWindow(min_ms=min_ms, max_ms=max_ms))


def finished(update: pb.VersionUpdate) -> pb.CheckInReply:
    """The job is over."""
    return pb.CheckInReply(finished=pb.Finished(update=update))


def _short(event: Event) -> str:
    if event.name == "phase":
        return str(event.fields["phase"])
    if event.name == "version":
        return f"version {event.fields['version']} {event.fields['form']}"
    return f"report {event.fields['status']}" if event.name == "report" else event.name
