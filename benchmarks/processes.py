"""Runs a part of a benchmark in a process of its own and watches its memory from outside.

The child says "imported" when its imports are done and waits, so that what it holds then can be read
exactly; at its end it prints its figures as one line of JSON. The peak of resident memory is the kernel's
own (VmHWM); the peak of anonymous memory is sampled every 2 ms, because no kernel keeps it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE_S = 0.002


@dataclass(frozen=True)
class Memory:
    """Bytes: resident and anonymous, when the imports were done and at their peaks."""

    imported_rss_bytes: int
    imported_anonymous_bytes: int
    peak_rss_bytes: int
    peak_anonymous_bytes: int

    @property
    def growth_rss_bytes(self) -> int:
        """How much the peak is above the imports."""
        return self.peak_rss_bytes - self.imported_rss_bytes

    @property
    def growth_anonymous_bytes(self) -> int:
        """The same for anonymous memory."""
        return self.peak_anonymous_bytes - self.imported_anonymous_bytes


def wait_for_reading() -> None:
    """Called by a child when its imports are done."""
    print("imported", flush=True)
    sys.stdin.readline()


def finish(figures: dict[str, Any]) -> None:
    """Called by a child at its end; it stays until its memory has been read."""
    print(json.dumps(figures), flush=True)
    sys.stdin.readline()


def turns() -> Iterator[str]:
    """For a child that works when it is asked to: each line of its parent, until that ends the child.

    The child answers each with `answer`.
    """
    for line in sys.stdin:
        if not line.strip():
            return
        yield line.strip()


def answer(figures: dict[str, Any]) -> None:
    """A child's answer to one line."""
    print(json.dumps(figures), flush=True)


PYTHON = (sys.executable, "-m")


class Child:
    """A running `python -m module arguments`, or another `program`, with so many threads, its imports done.

    Raises RuntimeError when the child fails; what it said is on stderr.
    """

    def __init__(self, module: str, *arguments: str, threads: int, program: Sequence[str] = PYTHON) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        command = [*program, module, *arguments]
        self._module = module
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._peak_anonymous_bytes = 0
        if self._line() != "imported":
            self.end()
            raise RuntimeError(f"{module} failed: see above")
        self._imported = status(self._process.pid)

    def ask(self, line: str) -> dict[str, Any]:
        """Sends a line and returns what the child answers, watching its memory meanwhile."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        self._peak_anonymous_bytes = max(self._peak_anonymous_bytes, _watch(self._process))
        answered = self._line()
        if not answered:
            raise RuntimeError(f"{self._module} failed: see above")
        figures: dict[str, Any] = json.loads(answered)
        return figures

    @property
    def memory(self) -> Memory:
        """Of the child up to now."""
        peak_rss = status(self._process.pid)["VmHWM"]
        at_start = (self._imported["VmRSS"], self._imported["RssAnon"])
        return Memory(*at_start, peak_rss, self._peak_anonymous_bytes)

    def end(self) -> None:
        """Lets the child end, and waits for it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.close()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def run_child(module: str, *arguments: str, threads: int) -> tuple[Memory, dict[str, Any]]:
    """Runs a child that works once, to its `finish`; returns its memory and figures.

    Raises RuntimeError when the child fails; what it said is on stderr.
    """
    child = Child(module, *arguments, threads=threads)
    try:
        figures = child.ask("")
        return child.memory, figures
    finally:
        child.end()


def _watch(child: subprocess.Popen[str]) -> int:
    """The largest anonymous memory seen until the child prints or ends."""
    assert child.stdout is not None
    peak = 0
    while True:
        readable, _, _ = select.select([child.stdout], [], [], 0)
        try:
            peak = max(peak, status(child.pid).get("RssAnon", 0))
        except FileNotFoundError:
            return peak
        if readable or child.poll() is not None:
            return peak
        time.sleep(SAMPLE_S)


def status(pid: int) -> dict[str, int]:
    """A process's sizes in /proc/PID/status, in bytes, by the kernel's names: VmRSS, VmHWM, RssAnon …"""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in fields}
