"""Real guides for compression.py: public gradients by back-propagation, of an encoder and of a decoder.

MiniLM with LoRA on query and value, and a small Llama with random weights and LoRA on q_proj and v_proj; both
with a head, on the embedded public requests. At the start LoRA's B is zero and so is A's gradient, which
would make any code look good: guides are therefore taken after some steps of Adam as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.forward_models import source_of
from cloud_service.guides import Objective, open_model
from cooperllm.simulate.model_cache import exported_bundle
from device_runtime.bundle import Bundle
from device_runtime.examples import read_examples

PUBLIC = Path(__file__).parents[1] / "cooperllm" / "data" / "public.tsv"
MODELS = ("minilm", "llama-small")
_RATE, _DECAY, _SQUARED_DECAY = 3e-3, 0.9, 0.99  # of Adam
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """A guide by its name, segment by segment."""

    name: str
    segments: tuple[Float32, ...]

    @property
    def count(self) -> int:
        """Parameters."""
        return sum(values.size for values in self.segments)

    @property
    def non_zero(self) -> int:
        """Parameters whose gradient is not exactly zero."""
        return sum(int(np.count_nonzero(values)) for values in self.segments)

    @property
    def whole(self) -> Float32:
        """All of it, (n,)."""
        return np.concatenate(self.segments)

    @property
    def rms(self) -> float:
        """Its root mean square, the levels' unit."""
        return float(np.sqrt(np.mean(self.whole.astype(np.float64) ** 2)))


def samples(quick: bool) -> Iterator[Sample]:
    """Each model's guide at the start, after some steps, and that without the head's part.

    Raises CooperLLMError when a model cannot be exported: show it.
    """
    for model in MODELS:
        yield from _of_model(model, steps=4 if quick else 12, examples=32 if quick else 108)


def adapted(name: str, steps: int, examples: int) -> tuple[Bundle, Sample]:
    """A model's bundle and its guide after so many steps. Raises as `descent` does."""
    *_, last = descent(name, steps, examples)
    return _bundle_of(name)[0], Sample(name, last)


def descent(name: str, steps: int, examples: int) -> Iterator[tuple[Float32, ...]]:
    """The guides of a model before each of `steps` steps of Adam and after the last, segment by segment.

    Raises CooperLLMError when the model cannot be exported: show it.
    """
    bundle, source = _bundle_of(name)
    model = open_model(bundle, source)
    segments = tuple(range(len(model.segments) + 1))
    objective = Objective(model, bundle, read_examples(PUBLIC, bundle.known_labels)[:examples], segments)
    adapter, mean, square = bundle.adapter.astype(np.float64), 0.0, 0.0
    for step in range(1, steps + 2):
        _, gradient = objective.loss_and_gradient(adapter.astype(np.float32))
        yield tuple(gradient[bundle.layout.segment_slice(k)].astype(np.float32) for k in segments)
        mean = _DECAY * mean + (1.0 - _DECAY) * gradient
        square = _SQUARED_DECAY * square + (1.0 - _SQUARED_DECAY) * gradient**2
        spread = np.sqrt(square / (1.0 - _SQUARED_DECAY**step))
        adapter = adapter - _RATE * mean / (1.0 - _DECAY**step) / (spread + 1e-8)


def _bundle_of(name: str) -> tuple[Bundle, str]:
    source = "" if name == "minilm" else str(source_of(name))
    labels = sorted({example.label for example in read_examples(PUBLIC)})
    return Bundle.open(exported_bundle(source, labels)[0]), source


def _of_model(name: str, steps: int, examples: int) -> Iterator[Sample]:
    guides = list(descent(name, steps, examples))
    yield Sample(f"{name}, at the start", guides[0])
    yield Sample(f"{name}, after {steps} steps", guides[-1])
    yield Sample(f"{name}, after {steps} steps, no head", guides[-1][:-1])
