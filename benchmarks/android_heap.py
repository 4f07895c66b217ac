"""Part of android.py: heap that the Kotlin device allocates, whatever n is, and memory beside a JVM's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import Child

PARAMETERS = (10_000, 100_000, 1_000_000, 10_000_000)
QUICK_PARAMETERS = PARAMETERS[:3]
DIRECTIONS = (4, 16, 64)
MAX_DIRECTION_BYTES = 12_000  # of a task: the handles of six runs' outputs
GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
_PACKAGE = "org.cooperllm.executorch"


def heap(java: Sequence[str], parameters: Sequence[int]) -> dict[str, Any]:
    """Bytes on the heap: of a direction and an update by n, and of a task's direction by their number.

    `java` starts a JVM that has the device's classes. Raises RuntimeError when it fails.
    """
    program = [*java[:1], f"-Dgolden.dir={GOLDEN}", *java[1:]]
    child = Child(f"{_PACKAGE}.HeapBenchmark", threads=1, program=program)
    try:
        child.ask("adapter 10000")  # the first of each meets classes that are not loaded yet
        child.ask("directions 64")
        adapters = {n: child.ask(f"adapter {n}") for n in parameters}
        tasks = {n: child.ask(f"directions {n}")["task_bytes"] for n in DIRECTIONS}
    finally:
        child.end()
    first, last = DIRECTIONS[0], DIRECTIONS[-1]
    more = (tasks[last] - tasks[first]) / (last - first)
    return {"adapters": adapters, "tasks": tasks, "direction_bytes": more}


def bare_jvm(java: Sequence[str]) -> int:
    """Resident bytes of a JVM of the same flags and class path that does nothing, at their peak."""
    child = Child(f"{_PACKAGE}.BareJvm", threads=1, program=java)
    try:
        child.ask("x")
        return child.memory.peak_rss_bytes
    finally:
        child.end()


def constant(figures: dict[str, Any]) -> bool:
    """Whether no figure depends on n, and a further direction of a task costs little."""
    of_adapters = figures["adapters"].values()
    kinds = ("direction_bytes", "update_bytes")
    same = all(len({adapter[kind] for adapter in of_adapters}) == 1 for kind in kinds)
    return bool(same and figures["direction_bytes"] <= MAX_DIRECTION_BYTES)


def heap_table(figures: dict[str, Any]) -> str:
    """The figures for a terminal."""
    lines = [f"{'heap, bytes':>16}{'a direction':>14}{'an update':>14}"]
    for n, row in figures["adapters"].items():
        lines.append(f"{f'n = {n:,}':>16}{row['direction_bytes']:14,}{row['update_bytes']:14,}")
    for count, size in figures["tasks"].items():
        lines.append(f"{f'a task of {count}':>16}{size / count:14,.0f}")
    more, said = figures["direction_bytes"], "yes" if constant(figures) else "NO"
    goal = f"a further direction of a task: {more:,.0f} (goal: at most {MAX_DIRECTION_BYTES:,})"
    return "\n".join([*lines, f"{goal}; the same whatever n is: {said}"])
