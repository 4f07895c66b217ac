"""Sessions in a thread of their own, one after another, until somebody stops them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from .errors import CooperLLMError, Stopped
from .journal import Event


class Background:
    """`session()` is run at once, then every `interval_s` with jitter, until `stopping` is set.

    A session that fails is told as the event "error" and tried again at the next interval.
    """

    def __init__(
        self, session: Callable[[], object], stopping: threading.Event, on_event: Callable[[Event], None]
    ) -> None:
        self._session, self._stopping, self._on_event = session, stopping, on_event
        self._thread: threading.Thread | None = None

    @property
    def runs(self) -> bool:
        """Whether it was started and not joined since."""
        return self._thread is not None

    def start(self, interval_s: float) -> None:
        """Begins; nothing may run yet."""
        self._thread = threading.Thread(target=self._run, args=(interval_s,), name="cooperllm", daemon=True)
        self._thread.start()

    def join(self) -> bool:
        """Waits for the end, once `stopping` is set; False where nothing runs, or it is its own thread that
        asks.
        """
        if self._thread is None or self._thread is threading.current_thread():
            return False
        self._thread.join()
        self._thread = None
        return True

    def _run(self, interval_s: float) -> None:
        while not self._stopping.is_set():
            pause_s = interval_s * random.uniform(0.9, 1.1)
            try:
                self._session()
            except Stopped:
                return
            except CooperLLMError as error:
                self._on_event(Event("error", time.time() * 1000, {"detail": error.message}))
            self._stopping.wait(pause_s)
