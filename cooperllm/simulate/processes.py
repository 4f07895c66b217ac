"""Child processes of a run: each in a group of its own, events read line by line, all stopped in the end.

Where this process is killed and can stop nobody, they end by themselves: see lifeline.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cooperllm import lifeline

STOP_GRACE_S = 5.0
"""How long a child has, after SIGTERM, to write down its state."""


@dataclass(frozen=True)
class Event:
    """One JSON object, a line of a child's stdout. `{"event": "exited", "code": ...}` is the last."""

    child: str
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        """What happened."""
        return str(self.body.get("event", ""))


class Child:
    """One running process. Its stderr goes to `log`, and so does any line of its stdout that is no event."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, events: queue.SimpleQueue[Event]
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered, or an event would arrive long after it happened; one thread, because many devices
        # share the CPU.
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", lifeline.VARIABLE: "1"}
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # the lifeline: closed with this process, however it ends
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        self._reader = threading.Thread(
            target=self._read, args=(events,), name=f"events of {name}", daemon=True
        )
        self._reader.start()

    def _read(self, events: queue.SimpleQueue[Event]) -> None:
        stream = self.process.stdout
        assert stream is not None
        with self.log.open("ab") as log:
            for line in stream:
                try:
                    body = json.loads(line)
                except ValueError:
                    body = None
                if isinstance(body, dict):
                    events.put(Event(self.name, body))
                else:
                    log.write(line)
                    log.flush()
        events.put(Event(self.name, {"event": "exited", "code": self.process.wait()}))

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self.process.poll() is None

    def last_words(self) -> str:
        """The last line of the log: what the process said before it failed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"

    def send(self, number: signal.Signals) -> None:
        """Signal the whole group; nothing happens when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End the group at once, as the operating system does when memory runs out."""
        self.send(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Free the pipes of a process that has ended."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._reader.join(timeout=STOP_GRACE_S)
        if self.process.stdout is not None and not self._reader.is_alive():
            self.process.stdout.close()


class Children:
    """All processes of one run, and their events in order of arrival. Leaving its `with` block stops all."""

    def __init__(self, stop_grace_s: float = STOP_GRACE_S) -> None:
        self._stop_grace_s = stop_grace_s
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._children: dict[str, Child] = {}

    def start(self, name: str, command: Sequence[str], log: Path) -> Child:
        """Start a command; a child of the same name that has ended is replaced."""
        former = self._children.get(name)
        if former is not None and former.running:
            raise ValueError(f"{name} is still running")
        if former is not None:
            former.close()
        child = self._children[name] = Child(name, command, log, self.events)
        return child

    def __getitem__(self, name: str) -> Child:
        return self._children[name]

    def next_event(self, timeout_s: float) -> Event | None:
        """Wait for an event at most so long; None when there was none."""
        try:
            return self.events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def stop(self) -> None:
        """SIGTERM to all, a bounded wait, SIGKILL to whoever is left. Calling it again does nothing."""
        try:
            self._ask_to_stop()
        finally:
            # Also when a second Ctrl-C cuts the wait short: then at once.
            for child in self._children.values():
                if child.running:
                    child.kill()
                child.close()

    def _ask_to_stop(self) -> None:
        for child in self._children.values():
            if child.running:
                child.send(signal.SIGTERM)
        deadline = time.monotonic() + self._stop_grace_s
        for child in self._children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(timeout=max(deadline - time.monotonic(), 0.0))

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
