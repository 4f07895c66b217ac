"""Using what was learned: predictions and evaluations on the device, with numbers that stay there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import NotEnoughExamples
from .local_update import Examples, evaluate

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
