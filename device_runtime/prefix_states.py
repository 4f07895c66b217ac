"""Hidden states of private examples at a boundary that a task does not move: computed once, then reused.

A direction that is zero before segment k meets, at k, the same hidden state in every round: as long as the
adapter before k stays the same, bit for bit, nothing before k has to run again. With the head alone active,
a round costs its heads and no forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .local_update import Batch

MOST_STATE_BYTES = 64 * 2**20  # in memory, for all examples; with more of them the chain runs from its start


class Examples(Protocol):
    """What is used here of private_examples.ExampleSet."""

    rows: int
    tokens: int

    def __len__(self) -> int: ...

    def batches(self, chosen: Sequence[int]) -> list[Batch]: ...


class Program(Protocol):
    """What is used here of engine.Engine."""

    @property
    def hidden_size(self) -> int: ...

    def hidden(self, batch: Batch, segment: int) -> NDArray[np.float32]: ...

    def adapter_before(self, segment: int) -> NDArray[np.float32]: ...


class PrefixStates:
    """The same examples, in batches that enter the chain at `first_segment`.

    An example's state is computed among its neighbours, positions rows * g to rows * g + rows - 1, never
    among those that a round drew: so the bits do not depend on what was drawn before, nor on a restart.
    """

    def __init__(self, examples: Examples, program: Program, first_segment: int) -> None:
        self._examples, self._program, self._first_segment = examples, program, first_segment
        self._before = program.adapter_before(first_segment).copy()
        self._states: dict[int, NDArray[np.float32]] = {}  # position → (tokens, hidden size)

    @staticmethod
    def fit(examples: Examples, program: Program, first_segment: int) -> bool:
        """Whether there is anything to reuse, and all of it stays within MOST_STATE_BYTES."""
        return first_segment > 0 and examples.tokens * program.hidden_size * 4 <= MOST_STATE_BYTES

    def are_of(self, examples: Examples, first_segment: int) -> bool:
        """Whether these states are of the same examples and boundary, under the adapter as it is now."""
        same = examples is self._examples and first_segment == self._first_segment
        return same and np.array_equal(self._before, self._program.adapter_before(first_segment))

    def __len__(self) -> int:
        return len(self._examples)

    def batches(self, chosen: Sequence[int]) -> list[Batch]:
        """The chosen examples, `rows` at a time, in the order given, each batch with its hidden state."""
        rows = self._examples.rows
        for group in sorted({position // rows for position in chosen if position not in self._states}):
            self._compute(range(group * rows, min(group * rows + rows, len(self._examples))))
        parts = [chosen[start : start + rows] for start in range(0, len(chosen), rows)]
        batches = self._examples.batches(chosen)
        return [self._entering(batch, part) for batch, part in zip(batches, parts, strict=True)]

    def _compute(self, positions: Sequence[int]) -> None:
        (batch,) = self._examples.batches(positions)
        hidden = self._program.hidden(batch, self._first_segment)
        for row, position in enumerate(positions):
            self._states[position] = hidden[row][batch.attention_mask[row] == 1]

    def _entering(self, batch: Batch, part: Sequence[int]) -> Batch:
        hidden = np.zeros((*batch.input_ids.shape, self._program.hidden_size), np.float32)
        for row, position in enumerate(part):
            hidden[row][batch.attention_mask[row] == 1] = self._states[position]
        return batch._replace(hidden=hidden, first_segment=self._first_segment)
