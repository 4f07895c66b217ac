"""The calls of the C++ core with this package's types and errors.

A measurement runs whole (`measure`), or in streaming order, one segment a call (`begin`, `advance`,
`finish`), for guides that arrive segment by segment and need not be held all at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .core_errors import meaningful
from .directions import Direction
from .errors import UnsupportedTask
from .guides import Slices
from .held_guides import HeldGuides
from .local_update import Batch, Measurement

if TYPE_CHECKING:
    from . import core


class CoreCalls:
    """One program and one adapter in memory. Not for two threads at once, except stop().

    `types` is the module device_runtime.core.
    """

    def __init__(self, loaded: core.Core, types: ModuleType, hidden_size: int) -> None:
        self._core, self._types, self._hidden_size = loaded, types, hidden_size
        self._guides = HeldGuides(loaded)
        self._streamed: list[Direction] = []  # of the measurement in streaming order
        self._waiting: deque[int] = deque()  # its segments that have not run

    @property
    def hidden_size(self) -> int:
        """D, the width of a hidden state."""
        return self._hidden_size

    @property
    def adapter(self) -> NDArray[np.float32]:
        """The adapter that the program reads: float32 (n,), the same memory."""
        return self._core.adapter

    def hidden(self, batch: Batch, segment: int) -> NDArray[np.float32]:
        """The hidden state that enters a segment, (B, T, D)."""
        with meaningful(self._types.CoreError):
            return self._core.hidden(self._types.Batch(*batch), segment)

    def set_scale(self, scale: NDArray[np.float32] | None) -> None:
        """Sets s, float32 (n,), for all directions; None is 1 everywhere."""
        with meaningful(self._types.CoreError):
            self._core.set_scale(scale)

    def set_guides(self, guides: Mapping[bytes, Slices]) -> dict[bytes, int]:
        """Replaces all guides; answers under which index each is now known."""
        index = self.name_guides(guides)
        for name, slices in guides.items():
            for segment, values in slices.items():
                self.set_guide_segment(name, segment, values)
        return index

    def name_guides(self, guides: Mapping[bytes, Iterable[int]]) -> dict[bytes, int]:
        """Forgets all guides and says which there will be, each with its segments, before their values are
        here. Answers under which index each is known.
        """
        with meaningful(self._types.CoreError):
            return self._guides.name(guides)

    def set_guide_segment(self, name: bytes, segment: int, values: NDArray[np.float32]) -> None:
        """Holds one segment's slice of a named guide, not copied. Raises UnsupportedTask where it does not
        belong to one.
        """
        with meaningful(self._types.CoreError):
            self._guides.set(name, segment, values)

    def clear_guide_segment(self, name: bytes, segment: int) -> None:
        """Lets go of one segment's slice of a guide."""
        with meaningful(self._types.CoreError):
            self._guides.clear(name, segment)

    @property
    def guide_bytes(self) -> int:
        """The bytes of all slices of guides that are held."""
        return self._guides.size_bytes

    def measure(
        self,
        batches: list[Batch],
        directions: list[Direction],
        epsilon: float,
        active_segments: list[int],
        exit_segment: int = 0,
        global_weight: float = 0.0,
    ) -> Measurement:
        """The projected gradient of every direction over all batches; the adapter is the same after it.

        Exit and weight are those of a DirectionsTask.
        """
        with meaningful(self._types.CoreError):
            converted = self._batches(batches), self._directions(directions)
            return self._core.measure(*converted, epsilon, active_segments, exit_segment, global_weight)

    def begin(
        self,
        batches: list[Batch],
        directions: list[Direction],
        epsilon: float,
        active_segments: list[int],
        exit_segment: int = 0,
        global_weight: float = 0.0,
    ) -> list[int]:
        """Begins `measure` in streaming order: every string of labels at one segment before any at the next.

        Answers the segments that run, in order. For each: set the slices of that segment (see name_guides),
        advance(), clear them; then finish(). Bit for bit what `measure` answers one sign at a time; the
        adapter is as it was between calls. Holds two hidden states for every batch and direction, less where
        directions share their beginnings. Until the end, the adapter, the scale and the batches must stay;
        what does not perturb may be called in between, `measure`, `update` and the like are refused.

        Raises what `measure` does, for what can be told without a guide.
        """
        with meaningful(self._types.CoreError):
            converted = self._batches(batches), self._directions(directions)
            segments = self._core.begin(*converted, epsilon, active_segments, exit_segment, global_weight)
        self._streamed = [
            d._replace(active_segments=d.active_segments or active_segments) for d in directions
        ]
        self._waiting = deque(segments)
        return segments

    def advance(self) -> int:
        """Checks and runs the next segment for all directions; answers which one it was.

        Raises ArtifactError where a slice of a guide is missing: set it and call again. Raises what `measure`
        does: then the measurement is over, as after abandon().
        """
        if not self._waiting:
            raise UnsupportedTask("no measurement has begun that has segments left to run")
        self._guides.require(self._streamed, self._waiting[0])
        try:
            with meaningful(self._types.CoreError):
                self._core.advance()
        except BaseException:
            self.abandon()
            raise
        return self._waiting.popleft()

    def finish(self) -> Measurement:
        """The answer of `measure`, after the last segment. Raises DirectionBelowGrid, which nobody could know
        before, or LossNotFinite; UnsupportedTask where segments are left to run.
        """
        with meaningful(self._types.CoreError):
            return self._core.finish()

    def begun_bytes(self, batches: Iterable[Batch]) -> tuple[int, int]:
        """What begin() holds of these batches: the bytes of one hidden state of each, together, and of what
        goes with them however many states there are. See streaming.Sizes.
        """
        cells = [batch.input_ids.size for batch in batches]
        return 4 * self.hidden_size * sum(cells), self._core.context_bytes * len(cells)

    def abandon(self) -> None:
        """Ends what begin() began, at any time, and frees its memory."""
        self._waiting.clear()
        self._core.abandon()

    def slopes(
        self, batches: list[Batch], directions: list[Direction], epsilon: float, exit_segment: int = 0
    ) -> NDArray[np.float64]:
        """The slope of the mean loss along every direction, all in the head alone, without differences."""
        with meaningful(self._types.CoreError):
            return self._core.slopes(
                self._batches(batches), self._directions(directions), epsilon, exit_segment
            )

    def evaluate(self, batches: list[Batch], exit_segment: int = 0) -> tuple[float, float, int]:
        """(summed loss in nats, number of targets, right answers) over the rows of weight 1."""
        with meaningful(self._types.CoreError):
            return self._core.evaluate(self._batches(batches), exit_segment)

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """The head's logits, (B, classes)."""
        with meaningful(self._types.CoreError):
            return self._core.logits(self._types.Batch(*batch))

    def update(
        self,
        epsilon: float,
        update_seed: int,
        active_segments: list[int],
        directions: list[Direction],
        coefficients: list[float],
        guides: list[tuple[int, float]],
    ) -> int:
        """Steps the adapter; answers how many parameters met the bound. Nothing is written unless all of it
        is.
        """
        with meaningful(self._types.CoreError):
            converted = self._directions(directions)
            return self._core.update(epsilon, update_seed, active_segments, converted, coefficients, guides)

    def stop(self) -> None:
        """From any thread: what runs ends with Stopped, and so does every later call until resume()."""
        self._core.stop()

    def resume(self) -> None:
        """Takes stop() back."""
        self._core.resume()

    def _batches(self, batches: Iterable[Batch]) -> list[core.Batch]:
        return [self._types.Batch(*batch) for batch in batches]

    def _directions(self, directions: Iterable[Direction]) -> list[core.Direction]:
        # All but `exact`, the last: which of the core's calls measures a direction is said by the call.
        return [self._types.Direction(*direction[:-1]) for direction in directions]
