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


class TokensWithTargets(Tokens, Protocol):
    """What is used here of text.Tokenizer's answer to pairs."""

    @property
    def targets(self) -> NDArray[np.int64]: ...


class Tokenizer(Protocol):
    """What is used here of text.Tokenizer."""

    def ids(self, text: str) -> tuple[list[int], bool]: ...

    def encode(self, texts: Sequence[str], rows: int | None = None) -> Tokens: ...

    def response_ids(self, text: str, response: str) -> tuple[list[int], int, bool]: ...

    def encode_responses(
        self, pairs: Sequence[tuple[str, str]], rows: int | None = None
    ) -> TokensWithTargets: ...


class ExampleSet:
    """Examples that batches can be made of, in the program's shape: `rows` rows, padded with rows of weight
    0. With `names` a label is one of these, without it is a response that the model learns to give.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        names: Sequence[str] | None,
        tokenizer: Tokenizer,
        rows: int,
        tokens: int = 0,
    ) -> None:
        self._examples, self._names, self._tokenizer = examples, names, tokenizer
        self.rows, self.tokens = rows, tokens  # tokens of all texts together, 0 when nobody counted

    def __len__(self) -> int:
        return len(self._examples)

    def batches(self, chosen: Sequence[int]) -> list[Batch]:
        """The chosen examples, `rows` at a time, in the order given."""
        starts = range(0, len(chosen), self.rows)
        return [self._batch([self._examples[i] for i in chosen[s : s + self.rows]]) for s in starts]

    def _batch(self, part: Sequence[Example]) -> Batch:
        if self._names is None:
            return batch_of_responses([(e.text, e.label) for e in part], self._tokenizer, self.rows)
        numbered = [(e.text, self._names.index(e.label)) for e in part]
        return batch_of(numbered, self._tokenizer.encode, self.rows)


def batch_of(examples: Sequence[tuple[str, int]], encode: Callable[..., Tokens], rows: int) -> Batch:
    """One batch of at most `rows` (text, label index) examples; the rows behind them have weight 0 and label
    0.
    """
    tokens = encode([text for text, _ in examples], rows)
    labels = np.zeros(rows, np.int64)
    labels[: len(examples)] = [label for _, label in examples]
    return Batch(tokens.input_ids, tokens.attention_mask, labels, _weights(len(examples), rows))


def batch_of_responses(pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer, rows: int) -> Batch:
    """One batch of at most `rows` (text, response) pairs; its labels are the targets, int64 (B, T)."""
    tokens = tokenizer.encode_responses(pairs, rows)
    return Batch(tokens.input_ids, tokens.attention_mask, tokens.targets, _weights(len(pairs), rows))


def _weights(count: int, rows: int) -> NDArray[np.float64]:
    weights = np.zeros(rows, np.float64)
    weights[:count] = 1.0
    return weights


class PrivateExamples:
    """All of a device's examples, ready for tasks.

    Attributes: `train` and `held_out` (a tenth, by hash of the text) hold distinct examples; `skipped` counts
    those left out for their label, `truncated` those whose text is cut to the model's length. `names` are the
    labels that count; None where a label is a response.
    """

    def __init__(
        self, examples: Iterable[Example], names: Sequence[str] | None, tokenizer: Tokenizer, rows: int
    ) -> None:
        given = list(examples)
        known = [example for example in given if names is None or example.label in names]
        self.skipped = len(given) - len(known)
        train, held_out = split_held_out(dict.fromkeys(known))
        self.truncated = 0
        self._states: PrefixStates | None = None

        def prepared(part: Sequence[Example]) -> ExampleSet:
            if names is None:
                said = [tokenizer.response_ids(example.text, example.label) for example in part]
                ids = [(row, truncated) for row, _, truncated in said]
            else:
                ids = [tokenizer.ids(example.text) for example in part]
            self.truncated += sum(truncated for _, truncated in ids)
            return ExampleSet(part, names, tokenizer, rows, sum(len(row) for row, _ in ids))

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
