"""Runs a part of a benchmark in a process of its own and watches its memory from outside.

The child says "imported" when its imports are done and waits, so that what it holds then can be read
exactly; at its end it prints its figures as one line of JSON. The peak of resident memory is the kernel's
own (VmHWM); the peak of anonymous memory is sampled every 2 ms, because no kernel keeps it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
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


def run_child(module: str, *arguments: str, threads: int) -> tuple[Memory, dict[str, Any]]:
    """Runs `python -m module arguments` with that many threads; returns its memory and figures.

    Raises RuntimeError when the child fails; what it said is on stderr.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", module, *arguments]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        if child.stdout.readline().strip() != "imported":
            raise RuntimeError(f"{module} failed: see above")
        imported = _status(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        peak_anonymous = _watch(child)
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} failed: see above")
        peak_rss = _status(child.pid)["VmHWM"]
        child.stdin.write("\n")
        child.stdin.flush()
    finally:
        child.stdin.close()
        child.wait()
    memory = Memory(imported["VmRSS"], imported["RssAnon"], peak_rss, peak_anonymous)
    return memory, json.loads(line)


def _watch(child: subprocess.Popen[str]) -> int:
    """The largest anonymous memory seen until the child prints or ends."""
    import select

    assert child.stdout is not None
    peak = 0
    while True:
        readable, _, _ = select.select([child.stdout], [], [], 0)
        try:
            peak = max(peak, _status(child.pid).get("RssAnon", 0))
        except FileNotFoundError:
            return peak
        if readable or child.poll() is not None:
            return peak
        time.sleep(SAMPLE_S)


def _status(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in fields}
