"""A bundle that is loaded and ready to run: the C++ core and what is known of its program.

The core is imported when the first engine is made, so that a process which only asks for work starts quickly.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .core_calls import CoreCalls
from .core_errors import meaningful
from .errors import UnsupportedTask
from .examples import Example
from .memory import left_bytes, pair_bytes
from .private_examples import MOST_STATE_BYTES, ExampleSet, PrivateExamples, Source, batch_of
from .segment_work import SegmentWork
from .streaming import MOST_BYTES

if TYPE_CHECKING:
    from .bundle import Bundle


class Engine(CoreCalls):
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
        with meaningful(core.CoreError):
            loaded = core.Core(
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
        super().__init__(loaded, core, chain.hidden_size)
        self._left_bytes: int | None = None  # by a limit, beside the bundle
        self._pairs = False  # and beside what both signs in one forward take
        if max_memory_bytes is not None:
            self._left_bytes = left_bytes(bundle, self._core.planned_bytes, max_memory_bytes)
            self._max_state_bytes = min(max_state_bytes, self._left_bytes // 2)
        self._core.adapter[:] = bundle.adapter
        self._tokenizer = Tokenizer(bundle.tokenizer_path, bundle.manifest.text)

    @contextmanager
    def unlocked(self) -> Iterator[None]:
        """Lets others use the engine for a while, say while this thread, which holds the lock once, waits."""
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()

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

    @property
    def can_pair(self) -> bool:
        """Whether the bundle has both signs in one forward, and memory allows it."""
        fits = self._pairs or self._left_bytes is None or self._left_bytes >= pair_bytes(self.bundle)
        return fits and self._core.has_pairs(0, self.head_segment)

    def pair_up_to(self, most_tokens: int) -> None:
        """Runs both signs in one forward on batches of up to so many tokens a row; 0: never. See signs.py."""
        self._core.set_pair_tokens(most_tokens)
        if most_tokens and self._left_bytes is not None and not self._pairs:
            self._pairs, self._left_bytes = True, self._left_bytes - pair_bytes(self.bundle)
            self._max_state_bytes = min(self._max_state_bytes, self._left_bytes // 2)

    @property
    def streaming_bytes(self) -> int:
        """What guides and streaming order may hold: what a limit leaves beside the states that are kept."""
        return MOST_BYTES if self._left_bytes is None else self._left_bytes - self._max_state_bytes

    @property
    def work(self) -> SegmentWork:
        """What was run since the engine was made."""
        counters = self._core.counters
        return SegmentWork(
            tuple(counters.segment_runs),
            (*counters.pair_runs, 0),
            tuple(counters.segment_ns),
            tuple(counters.segment_perturb_ns),
            tuple(counters.segment_check_ns),
        )

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
