"""When which segment of a guide left for which device: for timelines, so in memory alone."""

from __future__ import annotations

import threading
from collections import OrderedDict

MOST_TASKS = 4096


class Deliveries:
    """By task and segment, from the first chunk's turn to when gRPC took the last, ms since 1970. For any
    thread.

    A segment that was streamed again, because a link broke, counts from its first time to its last.
    """

    def __init__(self, most_tasks: int = MOST_TASKS) -> None:
        self._most_tasks = most_tasks
        self._lock = threading.Lock()
        self._by_task: OrderedDict[str, dict[int, tuple[float, float]]] = OrderedDict()

    def took(self, task_id: str, segment: int, start_ms: float, end_ms: float) -> None:
        """gRPC took a chunk of this segment, which had waited for that since `start_ms`."""
        with self._lock:
            segments = self._by_task.setdefault(task_id, {})
            first_ms, _ = segments.get(segment, (start_ms, end_ms))
            segments[segment] = first_ms, end_ms
            while len(self._by_task) > self._most_tasks:
                self._by_task.popitem(last=False)

    def of(self, task_id: str) -> dict[int, tuple[float, float]]:
        """(start_ms, end_ms) by segment; empty for a task that nothing is known of."""
        with self._lock:
            return dict(self._by_task.get(task_id, {}))
