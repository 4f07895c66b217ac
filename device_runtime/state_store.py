"""Room for one hidden state of every token of a set of examples: in memory, or in a file without a name.

In memory the states are float32. In a file they are float16, for the tokens whose values go beyond its range
divided by a power of two that is kept beside them, so that none becomes infinite. Which of the two it is
depends on sizes alone, so the bits of a state never depend on what came before it.

The file is made without a name (or loses it at once): nobody else can open it, it is gone when it is closed
or when the process ends, however that ends, and no later process can take half of it for states.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MOST_HALF = 65504.0  # the largest float16


class StateStore(Protocol):
    """States by token, (tokens, D). What was never written means nothing."""

    def read(self, tokens: slice) -> NDArray[np.float32]: ...

    def write(self, tokens: slice, states: NDArray[np.float32]) -> None: ...

    def close(self) -> None: ...


class InMemory:
    """float32; the system gives memory to what was written, and to no more."""

    def __init__(self, tokens: int, width: int) -> None:
        self._states = np.zeros((tokens, width), np.float32)

    def read(self, tokens: slice) -> NDArray[np.float32]:
        """A copy of these tokens' states, (n, D)."""
        return self._states[tokens].copy()

    def write(self, tokens: slice, states: NDArray[np.float32]) -> None:
        """Replaces these tokens' states."""
        self._states[tokens] = states

    def close(self) -> None:
        """Gives the memory back. The object is of no use afterwards."""
        self._states = np.zeros((0, 0), np.float32)


class InFile:
    """float16 with an exponent a token, in a file of `folder` that has no name.

    Raises OSError when there is no room for all of it: better now than in the middle of a task.
    """

    def __init__(self, tokens: int, width: int, folder: Path) -> None:
        size_bytes = 2 * tokens * width
        # Where the system knows no nameless files, a crash may leave one with this ending: see Store.
        with tempfile.TemporaryFile(dir=folder, suffix=".tmp") as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
            self._map = mmap.mmap(file.fileno(), size_bytes)
        self._exponents = np.zeros(tokens, np.int8)
        self._shape = (tokens, width)

    def read(self, tokens: slice) -> NDArray[np.float32]:
        """A copy of these tokens' states, (n, D)."""
        states = self._view()[tokens].astype(np.float32)
        np.ldexp(states, self._exponents[tokens, None], out=states)
        self._let_go()
        return states

    def write(self, tokens: slice, states: NDArray[np.float32]) -> None:
        """Replaces these tokens' states, each rounded to float16 (times its token's power of two)."""
        largest = np.abs(states).max(axis=1, initial=0.0)
        large = np.isfinite(largest) & (largest > MOST_HALF)
        exponents = np.where(large, np.frexp(largest)[1] - 15, 0).astype(np.int8)
        with np.errstate(over="ignore"):  # only beside what is not finite already: the loss will tell
            self._view()[tokens] = np.ldexp(states, -exponents[:, None])
        self._exponents[tokens] = exponents
        self._let_go()

    def close(self) -> None:
        """Deletes the file. The object is of no use afterwards."""
        self._map.close()

    def _view(self) -> NDArray[np.float16]:
        return np.frombuffer(self._map, np.float16).reshape(self._shape)

    def _let_go(self) -> None:
        """The pages stay in the system's cache while it has room, and count as this process's no more."""
        self._map.madvise(mmap.MADV_DONTNEED)
