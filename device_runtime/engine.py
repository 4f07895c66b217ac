"""A bundle that is loaded and ready to run: the C++ core with this package's types and errors around it.

The core is imported when the first engine is made, so that a process which only asks for work starts quickly.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .core_errors import meaningful
from .directions import Direction
from .errors import UnsupportedTask
from .examples import Example
from .guides import Slices
from .local_update import Batch, Measurement
from .memory import left_bytes, pair_bytes
from .private_examples import MOST_STATE_BYTES, ExampleSet, PrivateExamples, Source, batch_of
from .segment_work import SegmentWork

if TYPE_CHECKING:
    from . import core
    from .bundle import Bundle


class Engine:
    """One program and one adapter in memory. Not for two threads at once, except stop().

    A segment's weights are loaded when it first runs. Hidden states of private examples take up to
    `max_state_bytes` of memory, then a file in `state_folder`; see private_examples.py.

    Raises ProgramError when the program cannot be loaded: export the bundle again with the pinned ExecuTorch;
    BundleTooLarge where it needs more than `max_memory_bytes` (see memory.py).
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int = 1,
        max_state_bytes: int = MOST_STATE_BYTES,
        state_folder: Path | None = None,
        max_memory_bytes: int | None = None,
    ) -> None:
        from . import core
        from .text import Tokenizer

        self.bundle, self._max_state_bytes, self._state_folder = bundle, max_state_bytes, state_folder
        # Held over everything that moves the adapter, so that a prediction never sees one in between.
        self.lock = threading.RLock()
        chain, layout = bundle.manifest.chain, bundle.layout
        tensors = [(t.segment, t.offset, t.count, t.exponent, list(t.shape)) for t in layout.tensors]
        self._types = core
        with meaningful(core.CoreError):
            self._core = core.Core(
                str(bundle.program_path),
                tensors,
                chain.segments,
                chain.batch_examples,
                bundle.manifest.text.max_tokens,
                chain.hidden_size,
                threads,
                chain.head_tokens,
                chain.vocabulary,
            )
        self._left_bytes: int | None = None
        if max_memory_bytes is not None:
            self._left_bytes = left_bytes(bundle, self._core.planned_bytes, max_memory_bytes)
            self._max_state_bytes = min(max_state_bytes, self._left_bytes)
        self._core.adapter[:] = bundle.adapter
        self._tokenizer = Tokenizer(bundle.tokenizer_path, bundle.manifest.text)

    @property
    def adapter(self) -> NDArray[np.float32]:
        """The adapter that the program reads: float32 (n,), the same memory."""
        return self._core.adapter

    @property
    def segment_counts(self) -> dict[int, int]:
        """The number of parameters of every segment, the head being the last."""
        layout = self.bundle.layout
        spans = {s: layout.segment_slice(s) for s in range(self.head_segment + 1)}
        return {segment: span.stop - span.start for segment, span in spans.items()}

    @property
    def head_segment(self) -> int:
        """The head's number."""
        return self.bundle.manifest.chain.segments

    @property
    def hidden_size(self) -> int:
        """D, the width of a hidden state."""
        return self.bundle.manifest.chain.hidden_size

    def segment_digest(self, segment: int) -> bytes:
        """The SHA-256 of the adapter's slice of one segment."""
        return hashlib.sha256(self._core.adapter[self.bundle.layout.segment_slice(segment)].data).digest()

    @property
    def has_branches(self) -> bool:
        """Whether adapters can run alone here, as ChainFed's auxiliary branch wants it."""
        return bool(self._core.auxiliary_segments)

    @property
    def has_head_gradient(self) -> bool:
        """Whether directions in the head can be measured without differences."""
        return self._core.has_head_gradient

    @property
    def loaded_methods(self) -> list[str]:
        """The program's methods whose weights are in memory."""
        return self._core.loaded_methods

    def keep_window(self, first_segment: int, exit_segment: int, branches: bool = False) -> None:
        """Frees all segments outside first_segment .. exit_segment - 1, and the auxiliary branches that do
        not stand behind them. What is needed again is loaded again when it runs.
        """
        behind = range(exit_segment, self.head_segment) if branches else ()
        self._core.unload_except(range(first_segment, exit_segment), list(behind))

    def unload_before(self, segment: int) -> None:
        """Frees all earlier segments."""
        every = range(self.head_segment)
        self._core.unload_except(every[segment:], every)

    def hidden(self, batch: Batch, segment: int) -> NDArray[np.float32]:
        """The hidden state that enters a segment, (B, T, D)."""
        with meaningful(self._types.CoreError):
            return self._core.hidden(self._types.Batch(*batch), segment)

    @property
    def can_pair(self) -> bool:
        """Whether the bundle has both signs in one forward, and memory allows it."""
        fits = self._left_bytes is None or self._left_bytes >= pair_bytes(self.bundle)
        return fits and self._core.has_pairs(0, self.head_segment)

    def pair_up_to(self, most_tokens: int) -> None:
        """Runs both signs in one forward on batches of up to so many tokens a row; 0: never. See signs.py."""
        self._core.set_pair_tokens(most_tokens)
        if most_tokens and self._left_bytes is not None:
            self._max_state_bytes = min(self._max_state_bytes, self._left_bytes - pair_bytes(self.bundle))

    @property
    def work(self) -> SegmentWork:
        """What was run since the engine was made."""
        counters = self._core.counters
        return SegmentWork(tuple(counters.segment_runs), (*counters.pair_runs, 0), tuple(counters.segment_ns))

    def private_examples(self, source: Source) -> PrivateExamples:
        """A source's examples as this bundle sees them."""
        names = self.bundle.known_labels
        rows = self.bundle.manifest.chain.batch_examples
        return PrivateExamples(
            source(names), names, self._tokenizer, rows, self._max_state_bytes, self._state_folder
        )

    def example_set(self, examples: Iterable[Example]) -> ExampleSet:
        """Examples to evaluate on, all of them, without those whose label is outside the classes."""
        names = self.bundle.known_labels
        known = [example for example in examples if names is None or example.label in names]
        return ExampleSet(known, names, self._tokenizer, self.bundle.manifest.chain.batch_examples)

    def classify(self, texts: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        """The head's logits of every text, (classes,) each.

        Raises UnsupportedTask where the labels are responses: such a model has no classes.
        """
        if self.bundle.known_labels is None:
            raise UnsupportedTask("this bundle learns to answer in words; it sorts no texts into classes")
        rows = self.bundle.manifest.chain.batch_examples
        for start in range(0, len(texts), rows):
            part = texts[start : start + rows]
            batch = batch_of([(text, 0) for text in part], self._tokenizer.encode, rows)
            with self.lock:
                logits = self.logits(batch)
            yield from logits[: len(part)]

    def set_scale(self, scale: NDArray[np.float32] | None) -> None:
        """Sets s, float32 (n,), for all directions; None is 1 everywhere."""
        with meaningful(self._types.CoreError):
            self._core.set_scale(scale)

    def set_guides(self, guides: Mapping[bytes, Slices]) -> dict[bytes, int]:
        """Replaces all guides; answers under which index each is now known."""
        self._core.clear_guides()
        index = {}
        with meaningful(self._types.CoreError):
            for number, (sha256, slices) in enumerate(guides.items()):
                for segment, values in slices.items():
                    self._core.set_guide(number, segment, values)
                index[sha256] = number
        return index

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
