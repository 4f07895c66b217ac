"""A child that ends with its parent, also when the parent could not say goodbye (`kill -9`, no memory left).

Its stdin is a pipe that the parent holds open and never writes to. The kernel closes it with the parent,
however that ended, and a thread of the child waits for just that.
"""

from __future__ import annotations

import os
import signal
import threading
import time

VARIABLE = "COOPERLLM_LIFELINE"
"""Set in the environment of a child whose stdin is such a pipe."""

GRACE_S = 3.0
"""How long the child has, after SIGTERM, to write down its state."""


def hold_on() -> None:
    """Make this process end with its parent, where the parent asked for it. Call it first of all."""
    # Its own children have another stdin, or share this one: they are not asked.
    if os.environ.pop(VARIABLE, None) is not None:
        threading.Thread(target=_wait, name="lifeline", daemon=True).start()


def _wait() -> None:
    while os.read(0, 4096):  # not sys.stdin, whose lock would be in the way at exit
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
