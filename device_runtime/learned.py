"""Using what was learned: predictions and evaluations on the device, with numbers that stay there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import NotEnoughExamples, OptionError
from .examples import Example
from .local_update import Examples, evaluate
from .personal import Personal, Personalised, Practice, applied, personalise
from .private_examples import Source
from .store import Store

if TYPE_CHECKING:
    from .engine import Engine


@dataclass(frozen=True)
class Prediction:
    """The most probable class of a text, and the probability of every class (they add up to 1)."""

    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Mean loss in nats and share of right answers over `count` examples."""

    loss: float
    accuracy: float
    count: int


def predictions(engine: Engine, texts: Sequence[str]) -> list[Prediction]:
    """The classes of texts by the adapter in the engine, which softmax(logits) makes probabilities."""
    names = engine.bundle.class_names
    found = []
    for logits in engine.classify(list(texts)):
        shifted = np.exp(logits.astype(np.float64) - logits.max())
        probabilities = shifted / shifted.sum()
        named = {name: float(p) for name, p in zip(names, probabilities, strict=True)}
        found.append(Prediction(names[int(np.argmax(logits))], named))
    return found


def evaluation(engine: Engine, examples: Examples) -> Evaluation:
    """Raises NotEnoughExamples when there are none."""
    if not len(examples):
        raise NotEnoughExamples("no example with a known label to evaluate on: give some")
    with engine.lock:
        found = evaluate(engine, examples)
    return Evaluation(found.loss, found.correct / found.count, found.count)


class Learned:
    """A device's adapters in use: the shared version that it holds, and what it personalised."""

    def __init__(self, store: Store, engine: Callable[[], Engine], source: Source) -> None:
        self._store, self._engine, self._source = store, engine, source

    def predict(self, texts: Sequence[str], private: bool) -> list[Prediction]:
        """See Device.predict."""
        engine = self._engine()
        with self._adapter(engine, private):
            return predictions(engine, texts)

    def evaluate(self, examples: Iterable[Example] | None, private: bool) -> Evaluation:
        """See Device.evaluate."""
        engine = self._engine()
        if examples is None:
            measured = engine.private_examples(self._source).held_out
        else:
            measured = engine.example_set(examples)
        with self._adapter(engine, private):
            return evaluation(engine, measured)

    def personalise(self, practice: Practice, go_on: Callable[[], bool]) -> Personalised:
        """See Device.personalise."""
        engine = self._engine()
        before = Personal.from_bytes(self._store.read_personal(), engine.bundle.sha256)
        private = engine.private_examples(self._source)
        try:
            after, found = personalise(engine, private, before, practice, go_on)
        finally:
            private.close()
        if found.kept:
            self._store.write_personal(after.to_bytes())
        return found

    @contextmanager
    def _adapter(self, engine: Engine, private: bool) -> Iterator[None]:
        if not private:
            yield
            return
        personal = Personal.from_bytes(self._store.read_personal(), engine.bundle.sha256)
        if personal is None:
            raise OptionError("nothing was personalised with this bundle yet: personalise first")
        with applied(engine, personal):
            yield
