"""A device whose directions take long beside a call, so that scalars go up while they run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device_runtime.budget import Budget
from device_runtime.bundle import Bundle
from device_runtime.engine import Engine
from device_runtime.local_update import Measurement

from .world import Quiet, World


class Slow(Quiet):
    """Every look at the clock is 10 s later: a direction takes long beside a check-in."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def clock(self) -> float:
        self.now_s += 10.0
        return self.now_s


class Orderly(Engine):
    """Measures the next direction once the part before it has landed; its process may end at one of them."""

    ends_at = 0

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.measured = 0

    def measure(self, *arguments: Any) -> Measurement:
        land()
        self.measured += 1
        if self.measured == self.ends_at:
            raise KeyboardInterrupt
        return super().measure(*arguments)

    def begin(self, *arguments: Any) -> list[int]:
        land()
        return super().begin(*arguments)


def ends_at(number: int) -> type[Orderly]:
    """Whose process ends when direction `number` (from 1) would be measured."""
    return type("Ending", (Orderly,), {"ends_at": number})


def land() -> None:
    for thread in threading.enumerate():
        if thread.name == "uplink":
            thread.join()


def slow_world(folder: Path, make_engine: Callable[[Bundle], Engine] = Orderly, limit: int = 64) -> World:
    return World(folder, make_engine=make_engine, machine=Slow(), budget=Budget(limit))


def spans_of_parts(world: World) -> list[tuple[int, int]]:
    """(first, end) of each part."""
    return [(part.first, part.first + len(part.scalars)) for part in world.cloud.parts]
