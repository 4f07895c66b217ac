"""Taking part from inside an app: one object, seven verbs.

    device = Device(server="cloud.example:50051", store=app_folder, examples=my_examples)
    device.schedule(interval_s=3600)          # in the background; or run_once(), or run_until_finished()
    device.predict(["wake me at seven"])      # with what has been learned so far, without a network
    device.personalise()                      # learns for itself alone; then predict(texts, private=True)
    device.stop()
    device.forget()                           # deletes key, adapter, bundle and account

`my_examples` is anything that yields Example(text, label) when it is iterated or called. It is asked anew at
every session and never stored: a text that is longer than the model takes is cut, one with an unknown label
is left out, both are counted. What leaves the device, and how much of it, is bounded by `budget` (see
budget.py).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from .background import Background
from .budget import Budget
from .conditions import Conditions, LinuxConditions
from .engine import Engine
from .errors import BundleError, Stopped
from .examples import Example
from .groups import GROUP_S
from .holdings import Holdings
from .identity import Identity
from .journal import Event
from .learned import Evaluation, Learned, Prediction
from .limits import Limits, Watch
from .offline import Offline
from .personal import Personalised, Practice
from .private_examples import MOST_STATE_BYTES, FileSource
from .retry import Retry
from .session import Outcome, Session
from .signs import run_signs
from .store import Store
from .transport import Transport

if TYPE_CHECKING:
    from .bundle import Bundle

ExampleSource = Iterable[Example] | Callable[[], Iterable[Example]] | FileSource
"""Private examples: anything to iterate over, or to call for something to iterate over; or a file, read
strictly.
"""


class Device:
    """One participant. Use it in a `with` block, or close() it.

    `server` is HOST:PORT, None for a device that only uses what it holds; `store` a folder of its own;
    `artifacts_url` overrides where the service says its artifacts are. With `tls` everything is encrypted
    (`ca_file`: PEM of a private authority). `token` is for services that ask for one. `limits` bound memory
    and time and name conditions under which alone the device works (see limits.py), about which `conditions`
    is asked; on Linux it needs not be given. `eligible()` is the app's own word, asked before every turn.
    `on_event` gets every event (see session.py), in the thread that works. Hidden states that are kept from
    task to task take up to `max_state_bytes` of memory; more of them go to a nameless file in the store.

    Raises StoreInUse or StoreError when the folder cannot be used, OptionError for an address that is none.
    """

    def __init__(
        self,
        *,
        server: str | None,
        store: str | Path,
        examples: ExampleSource,
        artifacts_url: str = "",
        budget: Budget | None = None,
        threads: int = 1,
        max_state_bytes: int = MOST_STATE_BYTES,
        tls: bool = False,
        ca_file: str | None = None,
        token: str = "",
        name: str = "",
        limits: Limits | None = None,
        conditions: Conditions | None = None,
        eligible: Callable[[], bool] = lambda: True,
        on_event: Callable[[Event], None] = lambda event: None,
        retry: Retry | None = None,
    ) -> None:
        self._examples, self._threads, self._eligible = examples, threads, eligible
        self._budget, self._on_event, self._max_state_bytes = budget, on_event, max_state_bytes
        self._limits = limits or Limits()
        self._watch = Watch(
            self._limits, conditions or LinuxConditions(), stopped=lambda: self._stopping.is_set()
        )
        self._stopping, self._working = threading.Event(), threading.RLock()
        self._background = Background(self._fresh_session, self._stopping, on_event)
        retry = retry or Retry(sleep=self._pause)

        def connect(identity: Identity) -> Transport | Offline:
            if server is None:
                return Offline()
            return Transport(server, identity, artifacts_url, tls, ca_file, token, name, retry=retry)

        self._connect = connect
        self._store = Store(store)
        self._learned = Learned(self._store, self._engine, self._source)
        try:
            self._begin()
        except BaseException:
            self._store.close()
            raise

    def _begin(self) -> None:
        """Everything that depends on the key: made at the start, and anew after forget()."""
        pem = self._store.read_key()
        identity = Identity.from_pem(pem) if pem else None
        if identity is None:
            identity = Identity.generate()
            self._store.write_key(identity.pem())
        self._transport = self._connect(identity)
        self._holdings = Holdings(self._store, self._transport, self._make_engine)
        noise = random.SystemRandom()
        self._session = Session(
            self._transport,
            self._store,
            self._holdings,
            self._source,
            noise.uniform,
            lambda: noise.gauss(0.0, 1.0),
            self._budget,
            self._on_event,
            watch=self._watch,
            pause=self._pause,
        )

    def _make_engine(self, bundle: Bundle) -> Engine:
        limit = self._limits.max_memory_bytes
        engine = Engine(bundle, self._threads, self._max_state_bytes, self._store.folder, limit)
        run_signs(engine, self._store.folder, self._threads)
        return engine

    # --- taking part ----------------------------------------------------------------------------------------

    def run_once(self) -> Outcome:
        """One turn: hands in what is pending, or checks in and does the task it is given.

        A task that is longer than max_duration_s goes on in the next turn. Raises ServerUnreachable (try
        again later), ServerRefused (do not), StoreError, BundleError, Stopped.
        """
        self._watch.begin_session()
        return self._turn()

    def run_until_finished(self) -> bool:
        """One session: turn after turn, with the pauses that the cloud asks for, until the job is over (True)
        or max_duration_s have passed (False: another call goes on). Raises as run_once.
        """
        self._watch.begin_session()
        while True:
            outcome = self._turn()
            if outcome.finished or self._watch.time_is_up:
                return outcome.finished
            self._pause(self._watch.within_session(outcome.wait_s))

    def _turn(self) -> Outcome:
        if not self._eligible():
            return Outcome(wait_s=60.0)
        try:
            with self._working:
                return self._session.turn()
        except Stopped:
            if self._stopping.is_set() or not self._watch.time_is_up:
                raise
            return Outcome()

    def schedule(self, interval_s: float = 3600.0) -> None:
        """Takes part in the background, until stop(): a session at once, then one every `interval_s` (with
        jitter).

        A session that fails is told as the event "error" and tried again at the next interval.
        """
        if not self._background.runs:
            self._resume()
            self._background.start(interval_s)

    def stop(self) -> None:
        """Ends what is under way: within one segment of a computation, within a call's deadline on the
        network.

        No finished direction is lost, and the adapter is as it was. run_once() and schedule() may be called
        again.
        """
        self._stopping.set()
        # A group of quick directions ends by itself, and what it finished is kept; a long direction is cut.
        if self._working.acquire(timeout=2 * GROUP_S):
            self._working.release()
        if self._holdings.engine is not None:
            self._holdings.engine.stop()
        if self._background.join():
            self._resume()

    def close(self) -> None:
        """Stops, and gives the folder back. The object is of no use afterwards."""
        self.stop()
        self._session.forget_examples()
        self._transport.close()
        self._store.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- using what was learned -----------------------------------------------------------------------------

    def predict(self, texts: Sequence[str], private: bool = False) -> list[Prediction]:
        """The classes of texts, by the adapter version that the device holds, or by its private adapter.
        Waits for a computation under way.

        Raises BundleError while the device holds no bundle: run_once() fetches it with the first task.
        OptionError for a private adapter where nothing was personalised.
        """
        return self._learned.predict(texts, private)

    def evaluate(self, examples: Iterable[Example] | None = None, private: bool = False) -> Evaluation:
        """Loss and accuracy on these examples, or on the tenth of its own that the device holds out.

        The numbers stay here. Raises as predict does, and NotEnoughExamples when there are none.
        """
        return self._learned.evaluate(examples, private)

    def personalise(self, practice: Practice | None = None) -> Personalised:
        """Learns from this device's examples alone, for this device alone: see personal.py. Nothing of it is
        ever reported, and the shared adapter stays as it is.

        Waits for a turn under way; max_duration_s and the conditions of `limits` end it early. Raises
        NotEnoughExamples, BundleError, OptionError, LossNotFinite or Stopped.
        """
        with self._working:
            self._watch.begin_session()
            return self._learned.personalise(practice or Practice(), self._watch.go_on)

    def forget_personal(self) -> None:
        """Deletes what personalising changed, and nothing else."""
        self._store.forget_personal()

    def forget(self) -> None:
        """Stops, and deletes everything that was stored: key, adapter, bundle, guides, account of
        disclosures.

        To the cloud, this device is a new one from then on.
        """
        self.stop()
        self._session.forget_examples()
        self._transport.close()
        self._store.forget()
        self._begin()

    # --- inside ---------------------------------------------------------------------------------------------

    def _fresh_session(self) -> None:
        self._session.forget_examples()  # the app's examples may have changed
        self.run_until_finished()

    def _source(self, class_names: Sequence[str] | None) -> Iterable[Example]:
        if isinstance(self._examples, FileSource):
            return self._examples.read(class_names)
        return self._examples() if callable(self._examples) else self._examples

    def _engine(self) -> Engine:
        sha256 = self._holdings.bundle_sha256()
        if not sha256:
            raise BundleError(
                "this device holds no bundle yet: take part first, run_once() fetches it with a task"
            )
        return self._holdings.load(sha256)

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise Stopped("stopped: call again to go on")

    def _resume(self) -> None:
        self._stopping.clear()
        if self._holdings.engine is not None:
            self._holdings.engine.resume()
