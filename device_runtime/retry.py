"""Repeating a call that may succeed later: exponential pauses with full jitter, for a bounded time.

The pause before attempt k is uniform in [0, min(longest_pause_s, first_pause_s * 2^k)], so that devices which
lost the cloud together do not come back together ("Exponential Backoff And Jitter", AWS Architecture Blog,
2015).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from .errors import ServerUnreachable

Answer = TypeVar("Answer")


class Transient(Exception):
    """A failure that may pass. Raised by a call that `Retry.run` repeats; its text becomes part of the final
    error.
    """


@dataclass
class Retry:
    """How long to insist. Before the first answer ever it is `first_contact_s`: a wrong address should show
    soon.
    """

    first_contact_s: float = 10.0
    patience_s: float = 300.0
    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = random.uniform
    reached: bool = field(default=False, init=False)

    def run(self, call: Callable[[], Answer], where: str) -> Answer:
        """Calls until it answers. Other errors than Transient pass through at once.

        Raises ServerUnreachable, naming `where`, when patience ends: try again later.
        """
        started = self.clock()
        attempt = 0
        while True:
            try:
                answer = call()
            except Transient as error:
                pause_s = self.uniform(0.0, min(self.longest_pause_s, self.first_pause_s * 2.0**attempt))
                patience_s = self.patience_s if self.reached else min(self.first_contact_s, self.patience_s)
                if self.clock() - started + pause_s > patience_s:
                    raise ServerUnreachable(
                        f"no answer from {where} ({error}): check the address and that the service runs"
                    ) from error
                self.sleep(pause_s)
                attempt = min(attempt + 1, 60)  # 2.0**attempt stays a number
            else:
                self.reached = True
                return answer
