"""How much each segment still changes what the first one was given: ChainFed's choice of where to start.

A segment's score is the linear CKA (Kornblith et al. 2019, arXiv 1905.00414) of its output with the first
segment's input, over a batch of private examples: 1 where it is the same up to rotation and scale, less the
more the segments before it have made of it. FOAT of ChainFed (arXiv 2604.06819) starts the chain at the first
segment whose score, averaged over the devices, falls below a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import LossNotFinite
from .local_update import Batch


class Program(Protocol):
    """What is used here of engine.Engine."""

    @property
    def head_segment(self) -> int: ...

    def hidden(self, batch: Batch, segment: int) -> NDArray[np.float32]: ...

    def unload_before(self, segment: int) -> None: ...


def segment_scores(program: Program, batches: Sequence[Batch]) -> list[float]:
    """The scores of all segments, each in [0, 1]; one segment is loaded at a time.

    An example is the mean of its tokens' hidden states. Raises LossNotFinite when a state is not a number.
    """
    first = gram(_examples(batches, [program.hidden(batch, 0) for batch in batches]))
    program.unload_before(program.head_segment)
    entering, scores = list(batches), []
    for segment in range(program.head_segment):
        left = [program.hidden(batch, segment + 1) for batch in entering]
        program.unload_before(program.head_segment)
        scores.append(cka(first, gram(_examples(batches, left))))
        entering = [
            batch._replace(hidden=hidden, first_segment=segment + 1)
            for batch, hidden in zip(batches, left, strict=True)
        ]
    return scores


def cka(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) of two centred matrices, by their Gram matrices XX' and YY' (n, n).

    0 where all examples are the same in one of them, and nothing can be said.
    """
    # ||Y'X||_F^2 = <XX', YY'>, so width plays no part.
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    if norms == 0.0:
        return 0.0
    return min(max(float(np.sum(first * second)) / norms, 0.0), 1.0)


def gram(examples: NDArray[np.float64]) -> NDArray[np.float64]:
    """XX' of examples (n, D) whose columns are centred, at a scale of its own, which CKA does not see."""
    centred = examples - examples.mean(axis=0)
    largest = np.abs(centred).max(initial=0.0)
    if not np.isfinite(largest):
        raise LossNotFinite("a hidden state is not finite: publish an earlier adapter version")
    scaled: NDArray[np.float64] = centred / largest if largest > 0.0 else centred
    return scaled @ scaled.T


def _examples(batches: Sequence[Batch], hidden: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """The mean hidden state of every example's tokens, float64 (n, D), without rows of weight 0."""
    means = []
    for batch, states in zip(batches, hidden, strict=True):
        for row in np.flatnonzero(batch.weights):
            tokens = states[row][batch.attention_mask[row] == 1].astype(np.float64)
            means.append(tokens.mean(axis=0) if len(tokens) else np.zeros(states.shape[2]))
    return np.array(means)
