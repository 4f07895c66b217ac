"""A device's own examples during one session: in memory only, never written down, never sent.

Examples of an app are taken as they come: one with a label outside the classes is left out, a text longer
than the model takes is cut, and both are counted. (A file is read strictly; see examples.py.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .examples import Example, read_examples, split_held_out
from .local_update import Batch
from .prefix_states import PrefixStates, Program


class Source(Protocol):
    """Where a session gets examples from. `class_names` is None while the device holds no bundle."""

    def __call__(self, class_names: Sequence[str] | None) -> Iterable[Example]: ...


@dataclass(frozen=True)
class FileSource:
    """A file of examples, read strictly: once the classes are known, a label outside them is an error.

    Raises ExamplesError, with the line number: show it to whoever gave the file.
    """

    path: str | Path
    text_column: str | None = None
    label_column: str | None = None

    def read(self, class_names: Sequence[str] | None) -> list[Example]:
        """All of the file's examples."""
        return read_examples(self.path, class_names, self.text_column, self.label_column)


class Tokens(Protocol):
    """What is used here of text.Tokenizer's answer."""

    @property
    def input_ids(self) -> NDArray[np.int64]: ...

    @property
    def attention_mask(self) -> NDArray[np.int64]: ...


class Tokenizer(Protocol):
    """What is used here of text.Tokenizer."""

    def ids(self, text: str) -> tuple[list[int], bool]: ...

    def encode(self, texts: Sequence[str], rows: int | None = None) -> Tokens: ...


class ExampleSet:
    """Examples that batches can be made of, in the program's shape: `rows` rows, padded with rows of weight
    0.
    """

    def __init__(
        self, examples: Sequence[tuple[str, int]], encode: Callable[..., Tokens], rows: int, tokens: int = 0
    ) -> None:
        self._examples, self._encode = examples, encode
        self.rows, self.tokens = rows, tokens  # tokens of all texts together, 0 when nobody counted

    def __len__(self) -> int:
        return len(self._examples)

    def batches(self, chosen: Sequence[int]) -> list[Batch]:
        """The chosen examples, `rows` at a time, in the order given."""
        return [
            batch_of([self._examples[i] for i in chosen[start : start + self.rows]], self._encode, self.rows)
            for start in range(0, len(chosen), self.rows)
        ]


def batch_of(examples: Sequence[tuple[str, int]], encode: Callable[..., Tokens], rows: int) -> Batch:
    """One batch of at most `rows` (text, label index) examples; the rows behind them have weight 0 and label
    0.
    """
    tokens = encode([text for text, _ in examples], rows)
    labels, weights = np.zeros(rows, np.int64), np.zeros(rows, np.float64)
    labels[: len(examples)] = [label for _, label in examples]
    weights[: len(examples)] = 1.0
    return Batch(tokens.input_ids, tokens.attention_mask, labels, weights)


class PrivateExamples:
    """All of a device's examples, ready for tasks.

    Attributes: `train` and `held_out` (a tenth, by hash of the text) hold distinct examples; `skipped` counts
    those left out for their label, `truncated` those whose text is cut to the model's length.
    """

    def __init__(
        self, examples: Iterable[Example], class_names: Sequence[str], tokenizer: Tokenizer, rows: int
    ) -> None:
        numbers = {name: number for number, name in enumerate(class_names)}
        given = list(examples)
        known = [example for example in given if example.label in numbers]
        self.skipped = len(given) - len(known)
        train, held_out = split_held_out(dict.fromkeys(known))
        self.truncated = 0
        self._states: PrefixStates | None = None

        def prepared(part: Sequence[Example]) -> ExampleSet:
            ids = [tokenizer.ids(example.text) for example in part]
            self.truncated += sum(truncated for _, truncated in ids)
            tokens = sum(len(row) for row, _ in ids)
            pairs = [(example.text, numbers[example.label]) for example in part]
            return ExampleSet(pairs, tokenizer.encode, rows, tokens)

        self.train, self.held_out = prepared(train), prepared(held_out)

    def train_from(self, first_segment: int, program: Program) -> ExampleSet | PrefixStates:
        """The training examples for a task that moves nothing before `first_segment`.

        Their hidden states there are kept from task to task, as long as they fit and stay the same.
        """
        if not PrefixStates.fit(self.train, program, first_segment):
            return self.train
        if self._states is None or not self._states.are_of(self.train, first_segment):
            self._states = PrefixStates(self.train, program, first_segment)
        return self._states


def count_distinct(examples: Iterable[Example]) -> int:
    """How many distinct training examples there seem to be, before a bundle says which labels count."""
    return len(split_held_out(dict.fromkeys(examples))[0])
