"""Hidden states of private examples at a boundary that a task does not move: computed once, then reused.

A direction that is zero before segment k meets, at k, the same hidden state in every round: as long as the
adapter before k stays the same, bit for bit, nothing before k has to run again. With the head alone active,
a round costs its heads and no forward. When the boundary moves on, as ChainFed's window does (arXiv
2604.06819), the states move on from where they are: only the segments in between run, and not the embedding.

Frozen segments run one at a time, over all examples that are needed, and only that one is loaded meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .local_update import Batch
from .state_store import StateStore


class Examples(Protocol):
    """What is used here of private_examples.ExampleSet. `lengths` are in tokens."""

    rows: int
    lengths: Sequence[int]

    def __len__(self) -> int: ...

    def batches(self, chosen: Sequence[int]) -> list[Batch]: ...


class Program(Protocol):
    """What is used here of engine.Engine."""

    @property
    def hidden_size(self) -> int: ...

    def hidden(self, batch: Batch, segment: int) -> NDArray[np.float32]: ...

    def unload_before(self, segment: int) -> None: ...

    def segment_digest(self, segment: int) -> bytes: ...


class PrefixStates:
    """The same examples, in batches that enter the chain at `first_segment`; see move_to.

    An example's state is computed among its neighbours, positions rows * g to rows * g + rows - 1, never
    among those that a round drew, and goes through the store at every segment: so the bits depend on examples
    and adapter alone, not on what was drawn before, on the way of the boundary, nor on a restart.
    """

    def __init__(self, examples: Examples, program: Program, store: StateStore) -> None:
        self._examples, self._program, self._store = examples, program, store
        self._starts = list(accumulate(examples.lengths, initial=0))
        groups = -(-len(examples) // examples.rows)
        self._levels = [0] * groups  # the segment that a group's states enter; 0: it has none
        self._digests: list[bytes] = []  # of the adapter's segments before the boundary
        self.first_segment = 0
        self.rows = examples.rows

    def are_of(self, examples: Examples, program: Program) -> bool:
        """Whether these states are of the same examples and program."""
        return examples is self._examples and program is self._program

    def move_to(self, first_segment: int) -> PrefixStates:
        """Sets the boundary. States stay while the adapter before them is the same; they follow when used."""
        digests = [self._program.segment_digest(segment) for segment in range(first_segment)]
        same = 0
        while same < min(len(digests), len(self._digests)) and digests[same] == self._digests[same]:
            same += 1
        self._levels = [level if level <= same else 0 for level in self._levels]
        self._digests, self.first_segment = digests, first_segment
        return self

    def close(self) -> None:
        """Lets go of the states, in memory or on disk. The object is of no use afterwards."""
        self._store.close()

    def __len__(self) -> int:
        return len(self._examples)

    def batches(self, chosen: Sequence[int]) -> list[Batch]:
        """The chosen examples, `rows` at a time, in the order given, each batch with its hidden state."""
        self._advance(sorted({position // self.rows for position in chosen}))
        parts = [chosen[start : start + self.rows] for start in range(0, len(chosen), self.rows)]
        batches = self._examples.batches(chosen)
        entered = zip(batches, parts, strict=True)
        return [self._entering(batch, part, self.first_segment) for batch, part in entered]

    def _advance(self, groups: Sequence[int]) -> None:
        """Brings groups to the boundary, segment by segment."""
        for segment in range(self.first_segment):
            behind = [group for group in groups if self._levels[group] == segment]
            for group in behind:
                self._run(group, segment)
            if behind:
                self._program.unload_before(self.first_segment)

    def _run(self, group: int, segment: int) -> None:
        positions = range(group * self.rows, min((group + 1) * self.rows, len(self)))
        (batch,) = self._examples.batches(positions)
        if segment > 0:
            batch = self._entering(batch, positions, segment)
        hidden = self._program.hidden(batch, segment + 1)
        self._levels[group] = 0  # whatever ends the next lines: half of a state is none
        for row, tokens in self._places(positions):
            self._store.write(tokens, hidden[row][batch.attention_mask[row] == 1])
        self._levels[group] = segment + 1

    def _entering(self, batch: Batch, positions: Sequence[int], segment: int) -> Batch:
        hidden = np.zeros((*batch.input_ids.shape, self._program.hidden_size), np.float32)
        for row, tokens in self._places(positions):
            hidden[row][batch.attention_mask[row] == 1] = self._store.read(tokens)
        return batch._replace(hidden=hidden, first_segment=segment)

    def _places(self, positions: Sequence[int]) -> Iterator[tuple[int, slice]]:
        """Every position's row in its batch, and its tokens in the store."""
        for row, position in enumerate(positions):
            yield row, slice(self._starts[position], self._starts[position + 1])
