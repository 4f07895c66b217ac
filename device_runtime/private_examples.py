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
from .state_store import InFile, InMemory, StateStore

MOST_STATE_BYTES = 64 * 2**20


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

    `lengths` are in tokens, of every example; none where nobody counted.
    """

    first_segment = 0  # where its batches enter the chain

    def __init__(
        self,
        examples: Sequence[Example],
        names: Sequence[str] | None,
        tokenizer: Tokenizer,
        rows: int,
        lengths: Sequence[int] = (),
    ) -> None:
        self._examples, self._names, self._tokenizer = examples, names, tokenizer
        self.rows, self.lengths = rows, lengths

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
    labels that count; None where a label is a response. Hidden states that are kept from task to task take up
    to `max_state_bytes` of memory, for all examples together; beyond that a file in `state_folder`, in half
    the bytes; where there is no folder or no room in it, none are kept and the chain runs from its start.
    """

    def __init__(
        self,
        examples: Iterable[Example],
        names: Sequence[str] | None,
        tokenizer: Tokenizer,
        rows: int,
        max_state_bytes: int = MOST_STATE_BYTES,
        state_folder: Path | None = None,
    ) -> None:
        given = list(examples)
        known = [example for example in given if names is None or example.label in names]
        self.skipped = len(given) - len(known)
        train, held_out = split_held_out(dict.fromkeys(known))
        self.truncated = 0
        self._max_state_bytes, self._state_folder = max_state_bytes, state_folder
        self._train_states: PrefixStates | None = None
        self._held_out_states: PrefixStates | None = None

        def prepared(part: Sequence[Example]) -> ExampleSet:
            if names is None:
                said = [tokenizer.response_ids(example.text, example.label) for example in part]
                ids = [(row, truncated) for row, _, truncated in said]
            else:
                ids = [tokenizer.ids(example.text) for example in part]
            self.truncated += sum(truncated for _, truncated in ids)
            return ExampleSet(part, names, tokenizer, rows, [len(row) for row, _ in ids])

        self.train, self.held_out = prepared(train), prepared(held_out)

    def train_from(self, first_segment: int, program: Program) -> ExampleSet | PrefixStates:
        """The training examples for a task that moves nothing before `first_segment`.

        Their hidden states there are kept from task to task, as long as there is room and they stay the same.
        A task that moves all segments ends that.
        """
        if first_segment == 0:
            self.close()
            return self.train
        self._train_states = self._states_of(self.train, self._train_states, program)
        return self._train_states.move_to(first_segment) if self._train_states else self.train

    def held_out_from(self, first_segment: int, program: Program) -> ExampleSet | PrefixStates:
        """The held-out examples, with their hidden states at `first_segment` where there is room for them."""
        if first_segment == 0:
            return self.held_out
        self._held_out_states = self._states_of(self.held_out, self._held_out_states, program)
        return self._held_out_states.move_to(first_segment) if self._held_out_states else self.held_out

    @property
    def boundary(self) -> int:
        """The segment at which hidden states of the training examples are kept; 0: none are."""
        return self._train_states.first_segment if self._train_states else 0

    def close(self) -> None:
        """Lets go of all hidden states, in memory and on disk."""
        for states in (self._train_states, self._held_out_states):
            if states:
                states.close()
        self._train_states = self._held_out_states = None

    def _states_of(
        self, examples: ExampleSet, before: PrefixStates | None, program: Program
    ) -> PrefixStates | None:
        if before is not None and before.are_of(examples, program):
            return before
        if before is not None:
            before.close()
        store = self._store(sum(examples.lengths), program.hidden_size)
        return PrefixStates(examples, program, store) if store else None

    def _store(self, tokens: int, width: int) -> StateStore | None:
        """Room for so many states; in which form depends on the sizes of all examples together alone."""
        if tokens == 0:
            return None
        all_tokens = sum(self.train.lengths) + sum(self.held_out.lengths)
        if 4 * all_tokens * width <= self._max_state_bytes:
            return InMemory(tokens, width)
        try:
            return InFile(tokens, width, self._state_folder) if self._state_folder else None
        except OSError:  # no room on the disk: slower, but no reason not to take part
            return None


def count_distinct(examples: Iterable[Example]) -> int:
    """How many distinct training examples there seem to be, before a bundle says which labels count."""
    return len(split_held_out(dict.fromkeys(examples))[0])
