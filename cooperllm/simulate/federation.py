"""One federated run: the real service and real device processes, from the first start to the last equal hash."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cooperllm.simulate.keys import place_key
from cooperllm.simulate.ledger import SERVICE, Ledger, device_name
from cooperllm.simulate.live import View
from cooperllm.simulate.processes import Children, Event
from device_runtime.errors import CooperLLMError

READY_WITHIN_S = 300.0
"""The service answers only after the public fit; on a busy machine torch alone takes half a minute to import."""

STALLED_AFTER_S = 300.0
"""A run in which nobody says anything for so long has failed, whatever the reason."""

MAX_RESTARTS = 50


@dataclass(frozen=True)
class Plan:
    """What one federated run needs: its folder, the job file in it, and one private file for each device."""

    title: str
    folder: Path
    job: Path
    data: Sequence[Path]
    rounds: int
    seed: int
    device_restart_after_s: float = 0.0


class Federation:
    """The processes of one run. Use it in a `with` block: leaving it, also by an error, stops every process.

    A service or device that dies by a signal is started again on its own folder, as an operating system or a cluster
    would do it, so `kill -9` of any of them is survived.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.children = Children()
        self.ledger = Ledger(len(plan.data), plan.rounds)
        self.grpc_port = self.http_port = 0
        self.restarts = 0
        self._due_s: dict[int, float] = {}   # device -> when to start it again, on the monotonic clock

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *_: object) -> None:
        self.children.stop()

    def run(self, view: View, on_event: Callable[[Federation, Event], None] | None = None) -> Ledger:
        """Start everything, follow it to the end and return what was said. The service still answers afterwards.

        `on_event` sees every event after it was accounted for.

        Raises CooperLLMError, one line that names the process and what it said last: show it.
        """
        view.begin(self.plan.title, self.ledger)
        try:
            self.start_service()
            while not self.ledger.finished:
                event = self._next_event(view)
                self.ledger.take(event)
                if event.child == SERVICE and event.kind == "ready":
                    self._ready(event)
                elif event.kind == "exited":
                    self._exited(event)
                if on_event is not None:
                    on_event(self, event)
                view.refresh()
        finally:
            view.end()
        return self.ledger

    def start_service(self) -> None:
        """Start the service, on the ports that it had before if it had any."""
        arguments = ["serve", "--job", self.plan.job, "--state", self.plan.folder / "cloud", "--host", "127.0.0.1",
                     "--grpc-port", self.grpc_port, "--http-port", self.http_port, "--format", "json"]  # fmt: skip
        self._start(SERVICE, arguments)

    def start_device(self, number: int) -> None:
        """Start one device on its own folder and its own data."""
        name = device_name(number)
        folder = self.plan.folder / name
        place_key(folder, self.plan.seed, number)
        arguments = ["device", "--server", f"127.0.0.1:{self.grpc_port}", "--data", self.plan.data[number],
                     "--state", folder, "--threads", 1, "--until-finished", "--format", "json"]  # fmt: skip
        self._start(name, arguments)

    def _start(self, name: str, arguments: Sequence[object]) -> None:
        command = [sys.executable, "-m", "cooperllm", *map(str, arguments)]
        self.children.start(name, command, self.plan.folder / "logs" / f"{name}.log")

    def _next_event(self, view: View) -> Event:
        quiet_since_s = time.monotonic()
        limit_s = STALLED_AFTER_S if self.grpc_port else READY_WITHIN_S
        while True:
            # Wakes up now and then without an event, so that the clock on the screen runs and Ctrl-C is heard.
            event = self.children.next_event(timeout_s=0.1)
            if event is not None:
                return event
            view.refresh()
            self._start_due_devices()
            if time.monotonic() - quiet_since_s > limit_s:
                raise CooperLLMError(
                    f"{self.plan.title}: nothing happened for {limit_s:.0f} s; see the logs in {self.plan.folder}/logs"
                )

    def _ready(self, event: Event) -> None:
        first = self.grpc_port == 0
        self.grpc_port, self.http_port = int(event.body["grpc_port"]), int(event.body["http_port"])
        if first:
            for number in range(len(self.plan.data)):
                self.start_device(number)

    def _exited(self, event: Event) -> None:
        code = int(event.body["code"])
        device = self.ledger.devices.get(event.child)
        if device is not None and device.finished:
            return
        if code >= 0 or self.restarts >= MAX_RESTARTS:
            words = self.children[event.child].last_words()
            raise CooperLLMError(f"{self.plan.title}: {event.child} ended with exit code {code}: {words}")
        self.restarts += 1
        if device is None:
            self.start_service()
        else:
            number = list(self.ledger.devices).index(event.child)
            self._due_s[number] = time.monotonic() + self.plan.device_restart_after_s
            self._start_due_devices()

    def _start_due_devices(self) -> None:
        for number in [number for number, due_s in self._due_s.items() if due_s <= time.monotonic()]:
            del self._due_s[number]
            self.ledger.devices[device_name(number)].starts += 1
            self.start_device(number)
