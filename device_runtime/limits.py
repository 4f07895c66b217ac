"""What a device may take from its machine: memory, time, and the conditions under which it works at all.

(What it may tell about its data is another matter: budget.py.)

A Watch is asked before every turn and between directions. It looks at the conditions at most once a second.
When one that is required does not hold, work ends at the next finished direction, and goes on there when all
hold again; a task is kept meanwhile until its lease expires. When a session's time is up, work ends likewise
and goes on in the next session. Work in between ends sooner or later: a download, an evaluation and one
direction are never cut.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from .conditions import CONDITIONS, Conditions
from .errors import OptionError

CHECK_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Limits:
    """`max_memory_bytes`: see memory.py. `max_duration_s`: of one session, from its first turn on, pauses
    included. `require`: names from conditions.CONDITIONS.

    Raises OptionError for a condition that is none, or a number below 1.
    """

    max_memory_bytes: int | None = None
    max_duration_s: float | None = None
    require: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.require) - set(CONDITIONS))
        if unknown:
            raise OptionError(f"{unknown[0]!r} is no condition: use some of {', '.join(CONDITIONS)}")
        if self.max_memory_bytes is not None and self.max_memory_bytes < 1:
            raise OptionError("max_memory_bytes must be at least 1: leave it out for no limit")
        if self.max_duration_s is not None and not self.max_duration_s > 0:
            raise OptionError("max_duration_s must be above 0: leave it out for no limit")


class Watch:
    """Says whether work may go on. `stopped()` is whether stop() was called.

    Raises OptionError where a condition is required that this machine does not tell: it could never work.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        conditions: Conditions | None = None,
        clock: Callable[[], float] = time.monotonic,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._limits, self._conditions, self._clock = limits or Limits(), conditions, clock
        self.stopped = stopped
        self._checked_s = -math.inf
        self._missing: list[str] = []
        self._ends_s: float | None = None
        self._first_check()

    def _first_check(self) -> None:
        if not self._limits.require:
            return
        if self._conditions is None:
            raise OptionError(
                "conditions are required, but nobody was given to ask about them: pass conditions"
            )
        found = self._conditions.now()
        unknown = sorted(name for name in self._limits.require if found.get(name) is None)
        if unknown:
            raise OptionError(f"this machine does not tell whether it is {unknown[0]}: do not require it")

    def begin_session(self) -> None:
        """From now on max_duration_s counts anew."""
        limit_s = self._limits.max_duration_s
        self._ends_s = None if limit_s is None else self._clock() + limit_s

    @property
    def time_is_up(self) -> bool:
        """Whether the session has lasted max_duration_s."""
        return self._ends_s is not None and self._clock() >= self._ends_s

    def within_session(self, seconds: float) -> float:
        """A pause, no longer than until the session's end."""
        return seconds if self._ends_s is None else max(0.0, min(seconds, self._ends_s - self._clock()))

    def go_on(self) -> bool:
        """Whether work may go on at this moment."""
        return not self.stopped() and not self.time_is_up and not self.missing()

    def missing(self) -> list[str]:
        """The required conditions that do not hold, as of at most a second ago."""
        if self._limits.require and self._conditions is not None:
            now_s = self._clock()
            if now_s - self._checked_s >= CHECK_INTERVAL_S:
                found = self._conditions.now()
                self._missing = sorted(name for name in self._limits.require if not found.get(name))
                self._checked_s = now_s
        return self._missing
