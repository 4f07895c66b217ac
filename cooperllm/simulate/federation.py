"""One federated run: the real service and real device processes, start to last equal hash."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cooperllm.simulate.install import place_bundle, place_key
from cooperllm.simulate.ledger import SERVICE, Ledger, device_name
from cooperllm.simulate.link import Link, link_of
from cooperllm.simulate.live import View
from cooperllm.simulate.processes import Children, Event
from cooperllm.simulate.proxy import Proxies, Proxy
from cooperllm.simulate.records import Crossing
from cooperllm.simulate.rounds import History, Operator
from device_runtime.bundle import Bundle
from device_runtime.errors import CooperLLMError

STALLED_AFTER_S = 300.0
"""A run of which nothing is heard for so long has failed, whatever the reason."""

POLL_EVERY_S = 0.5
HISTORY_EVERY_S = 4.0
"""All rounds and versions cost the service more to tell than where it stands."""

MAX_RESTARTS = 100


@dataclass(frozen=True)
class Plan:
    """What one federated run needs: its folder, the job file in it, and one private file for each device.

    With `installed`, devices hold that bundle from the start; without, they download it. With `links`,
    which are given to devices in turn, everything between a device and the service passes its link.
    """

    title: str
    folder: Path
    job: Path
    data: Sequence[Path]
    rounds: int
    seed: int
    installed: Bundle | None = None
    device_restart_after_s: float = 0.0
    links: tuple[Link, ...] = ()


class Federation:
    """The processes of one run. Use it in a `with` block: leaving it, also by an error, stops every process.

    A service or device that dies by a signal is started again on its own folder, as an operating system or
    a cluster would do it, so `kill -9` of any of them is survived.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.children = Children()
        self.ledger = Ledger(len(plan.data), plan.rounds)
        self.operator: Operator | None = None
        self.history = History()
        self.restarts = 0
        self._grpc = self._http = ""  # addresses, once the service has told them
        self.proxies: list[Proxy] = []  # of each device, where there are links
        self._opened = ExitStack()
        self._due_s: dict[int, float] = {}  # device -> when to start it again; all on the monotonic clock
        self._poll_due_s = self._history_due_s = 0.0
        self._heard_s = time.monotonic()

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *_: object) -> None:
        self.children.stop()
        self._opened.close()

    def run(self, view: View, on_event: Callable[[Federation, Event], None] | None = None) -> Ledger:
        """Start everything, follow it to the end, return what was said. The service still answers afterwards.

        `on_event` sees every event after it was accounted for.

        Raises CooperLLMError, one line that names the process and what it said last: show it.
        """
        view.begin(self.plan.title, self.ledger)
        try:
            self._start_service()
            while not self.ledger.finished:
                # Wakes up now and then without an event: the clock on the screen runs on, and Ctrl-C is
                # heard.
                for event in (self.children.next_event(timeout_s=0.1), self._poll()):
                    if event is not None:
                        self._take(event)
                        if on_event is not None:
                            on_event(self, event)
                self._start_due_devices()
                self._check_stalled()
                view.refresh()
        finally:
            view.end()
        return self.ledger

    def _take(self, event: Event) -> None:
        version = self.ledger.version
        self.ledger.take(event)
        if event.kind != "polled" or self.ledger.version > version:
            self._heard_s = time.monotonic()
        if event.child == SERVICE and event.kind == "ready":
            self._ready(event)
        elif event.kind == "exited":
            self._exited(event)
        if self.ledger.failure:
            raise CooperLLMError(f"{self.plan.title}: {self.ledger.failure}")

    def _poll(self) -> Event | None:
        if self.operator is None or time.monotonic() < self._poll_due_s:
            return None
        now_s = time.monotonic()
        self._poll_due_s, history = now_s + POLL_EVERY_S, now_s >= self._history_due_s
        if history:
            self._history_due_s = now_s + HISTORY_EVERY_S
        try:
            event = Event(SERVICE, self.operator.poll(history))
            self.history.read(self.operator, range(event.body["job"]["round"] or 0))
            return event
        except CooperLLMError:
            # It may just be on its way back from a kill; if it does not come back, its exit or the stall
            # says so.
            return None

    def _check_stalled(self) -> None:
        if time.monotonic() - self._heard_s > STALLED_AFTER_S:
            raise CooperLLMError(
                f"{self.plan.title}: nothing was heard for {STALLED_AFTER_S:.0f} s; "
                f"see {self.plan.folder / 'logs'}"
            )

    # --- starting and starting again
    # ---------------------------------------------------------------------------------

    def _start_service(self) -> None:
        # After a kill it gets the ports that it had: the devices go on calling there.
        data = self.plan.folder / SERVICE
        where = ["--host", "127.0.0.1", "--grpc-port", _port(self._grpc), "--http-port", _port(self._http)]
        self._start(
            SERVICE, ["serve", "--job", self.plan.job, "--data-dir", data, *where, "--format", "json"]
        )

    def _start_device(self, number: int) -> None:
        name = device_name(number)
        folder = self.plan.folder / name
        place_key(folder, self.plan.seed, number)
        own = ["--data", self.plan.data[number], "--state", folder, "--threads", 1]
        # Patient: the service may just have been killed, and takes long to come back on a busy machine.
        patience = ["--first-contact-s", 120, "--until-finished"]
        self._start(name, ["device", *self._where(number), *own, *patience, "--format", "json"])

    def _where(self, number: int) -> list[str]:
        """Where a device finds the service: directly, or through its link."""
        if not self.proxies:
            return ["--server", self._grpc]
        grpc, http = (f"127.0.0.1:{port}" for port in self.proxies[number].ports)
        return ["--server", grpc, "--artifacts", f"http://{http}"]

    def _start_links(self) -> None:
        """The service keeps its ports when it starts again, so the links outlive it."""
        proxies = self._opened.enter_context(Proxies())
        targets = [("127.0.0.1", int(_port(address))) for address in (self._grpc, self._http)]
        for number in range(len(self.plan.data)):
            seed = 1000 * self.plan.seed + number
            self.proxies.append(proxies.add(link_of(self.plan.links, number), targets, seed))

    def crossings(self) -> list[Crossing]:
        """What passed each device's link; none without links."""
        return [
            Crossing(device_name(number), str(proxy.link), proxy.down_bytes, proxy.up_bytes)
            for number, proxy in enumerate(self.proxies)
        ]

    def _start(self, name: str, arguments: Sequence[object]) -> None:
        command = [sys.executable, "-m", "cooperllm", *map(str, arguments)]
        self.children.start(name, command, self.plan.folder / "logs" / f"{name}.log")

    def _ready(self, event: Event) -> None:
        first = self.operator is None
        self._grpc, self._http = str(event.body["grpc"]), str(event.body["http"])
        token = Path(event.body["operator_token_file"]).read_text(encoding="utf-8").strip()
        self.operator = Operator(self._http, token)
        if first:
            if self.plan.links:
                self._start_links()
            for number, name in enumerate(self.ledger.devices):
                if self.plan.installed is not None:
                    place_bundle(self.plan.folder / name, self.plan.installed)
                self._start_device(number)

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
            self._start_service()
        else:
            number = list(self.ledger.devices).index(event.child)
            self._due_s[number] = time.monotonic() + self.plan.device_restart_after_s

    def _start_due_devices(self) -> None:
        for number in [number for number, due_s in self._due_s.items() if due_s <= time.monotonic()]:
            del self._due_s[number]
            self.ledger.devices[device_name(number)].starts += 1
            self._start_device(number)


def _port(address: str) -> str:
    return address.rpartition(":")[2] or "0"
