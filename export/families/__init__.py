"""Model families: one file each, which says what a Hugging Face configuration means in modules of ours.

A family is a function `family(config, modules) -> Family`. It reads the configuration, asks `modules` for its
linear modules and norms by their Hugging Face names, and puts them together from export.attention,
export.blocks and export.embedding. docs/families.md shows how to add one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from device_runtime.errors import BundleError
from export.adapters import AdaptedLinear, Adapter
from export.blocks import FrozenLinear
from export.embedding import Embed
from export.norms import LayerNorm, RMSNorm
from export.source import Weights
from export.tasks.language_head import LanguageHead

# What a checkpoint may carry before the names of its base model, which families use; tried in order.
PREFIXES = ("", "model.", "bert.", "roberta.", "distilbert.", "albert.", "deberta.", "language_model.model.")
# Hugging Face's model_type → the module of this package that knows it.
FAMILIES = {
    "albert": "albert",
    "bert": "bert",
    "deberta-v2": "deberta",
    "distilbert": "distilbert",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "gemma3_text": "gemma",
    "llama": "llama",
    "modernbert": "modernbert",
    "opt": "opt",
    "phi3": "phi3",
    "qwen2": "qwen",
    "qwen3": "qwen",
    "roberta": "roberta",
    "smollm3": "llama",
}
# model_type of masked language models → what transformers puts in ForMaskedLM before the base model's names.
MASKED_PREFIXES = {
    "albert": "albert.",
    "bert": "bert.",
    "deberta-v2": "deberta.",
    "distilbert": "distilbert.",
    "modernbert": "model.",
    "roberta": "roberta.",
}
# What transformers' ForCausalLM puts there: every other family is a causal language model.
CAUSAL_PREFIX = "model."


@dataclass(frozen=True)
class Rules:
    """What a program's batches look like.

    Attributes:
        max_tokens: the longest sequence.
        left_padding: padding stands on the left, so a causal model has to mask it.
    """

    max_tokens: int
    left_padding: bool = False


@dataclass(frozen=True)
class Family:
    """A frozen model as an embedding, a list of blocks, and its measures.

    The parts are made when they are called for, so that a lowering holds one segment's weights at a time.

    Attributes:
        hidden_size: D.
        max_tokens: the longest sequence, in tokens: what was asked for, or what the position table allows.
        embed: makes (input_ids int64 [B,T], attention_mask int64 [B,T]) → (hidden float32 [B,T,D], *context).
        blocks: each makes (hidden, context: name → tensor, adapter: name → tensor) → hidden.
        final: makes what stands after the last block, with a block's signature; None for nothing.
        shared: all blocks are one and the same, with one adapter: they stay in one segment.
        language_head: makes the language model's own head; None where the family has none.
        project: makes what tasks read the last hidden states through, [.., D] → [.., E]; None for nothing.
        projected_size: E; None for D.
    """

    hidden_size: int
    max_tokens: int
    embed: Callable[[], Embed]
    blocks: Sequence[Callable[[], nn.Module]]
    final: Callable[[], nn.Module] | None = None
    shared: bool = False
    language_head: Callable[[], LanguageHead] | None = None
    project: Callable[[], nn.Module] | None = None
    projected_size: int | None = None

    @property
    def output_size(self) -> int:
        """The size of what a task reads of each token."""
        return self.hidden_size if self.projected_size is None else self.projected_size


@dataclass(frozen=True)
class Modules:
    """Makes a family's modules from their Hugging Face names: frozen weights, and what the adapter adds.

    Attributes:
        weights: of the source.
        adapter: the adapter kind.
        rules: of the program's batches.
        root: what PEFT puts before a module's Hugging Face name.
        words: the only rows of a language head's table that the task reads; None for all.
    """

    weights: Weights
    adapter: Adapter
    rules: Rules
    root: str = "base_model.model."
    words: tuple[int, ...] | None = None

    def table(self, name: str) -> torch.Tensor:
        """A language head's weight or bias, of the words that the task reads."""
        return self.weights(name, self.words)

    def linear(self, name: str, rows: slice | None = None) -> AdaptedLinear:
        """The linear module of that name; its bias where there is one.

        Args:
            name: Hugging Face's, e.g. "encoder.layer.0.attention.self.query".
            rows: only these of its outputs, where one matrix holds several projections.
        """
        weight, bias = self.weights(f"{name}.weight"), self.weights.optional(f"{name}.bias")
        return self.adapter.linear(self.root + name, weight, bias, rows)

    def frozen(self, name: str) -> FrozenLinear:
        """The linear module of that name where no adapter kind adds anything; its bias where there is one."""
        return FrozenLinear(self.weights(f"{name}.weight"), self.weights.optional(f"{name}.bias"))

    def layer_norm(self, name: str, epsilon: float) -> LayerNorm:
        """The layer normalisation of that name; its bias where there is one."""
        weight, bias = self.weights(f"{name}.weight"), self.weights.optional(f"{name}.bias")
        return self.adapter.layer_norm(self.root + name, weight, bias, epsilon)

    def rms_norm(self, name: str, epsilon: float, offset: float = 0.0) -> RMSNorm:
        """The root-mean-square normalisation of that name, its weight plus `offset` (Gemma: 1)."""
        return self.adapter.rms_norm(self.root + name, self.weights(f"{name}.weight"), epsilon, offset)


def is_causal(model_type: str) -> bool:
    """Whether a family's tokens see those before them only: a decoder, no masked language model."""
    return model_type not in MASKED_PREFIXES


def language_root(model_type: str) -> str:
    """`Modules.root` under a language-model task: PEFT's prefix and that of the language model's class."""
    return Modules.root + MASKED_PREFIXES.get(model_type, CAUSAL_PREFIX)


def family_of(model_type: str) -> Callable[[Any, Modules], Family]:
    """The family function of a Hugging Face model_type.

    Raises:
        BundleError: there is none; the message lists those there are.
    """
    if model_type not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES))
        raise BundleError(f"model_type {model_type!r} is not supported; supported: {supported}")
    module = importlib.import_module(f"export.families.{FAMILIES[model_type]}")
    found: Callable[[Any, Modules], Family] = module.family
    return found
