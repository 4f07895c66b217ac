"""BERT encoders (Devlin et al. 2019; model_type "bert"), and the parts that its descendants share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from device_runtime.errors import BundleError
from export.adapters import AdaptedLinear
from export.attention import Attention, AttentionShape
from export.blocks import Block, FeedForward, Residual, activation
from export.embedding import AttentionMask, Embed, Positions
from export.families import Family, Modules
from export.tasks.language_head import LanguageHead


@dataclass(frozen=True)
class Names:
    """What a family calls the parts of one layer, below the layer's own name."""

    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    feed_forward_norm: str = "output.LayerNorm"


def family(config: Any, modules: Modules) -> Family:
    """The frozen encoder.

    Raises:
        BundleError: a decoder, or a position embedding or activation that is not supported.
    """
    check(config)
    max_tokens = min(modules.rules.max_tokens, config.max_position_embeddings)
    shape = multi_head(config)

    def embed() -> Embed:
        positions = Positions(position_table(modules)[:max_tokens])
        return embedding(modules, AttentionMask(shape.heads), positions, config.layer_norm_eps)

    def block(i: int) -> Block:
        path = f"encoder.layer.{i}"
        inner = attention(path, Names(), shape, modules)
        return layer(path, Names(), inner, config.hidden_act, config.layer_norm_eps, modules)

    return Family(
        config.hidden_size,
        max_tokens,
        embed,
        [partial(block, i) for i in range(config.num_hidden_layers)],
        language_head=partial(_language_head, config, modules),
    )


def check(config: Any) -> None:
    """Refuses what BERT and its descendants can be configured to but no exported program does.

    Raises:
        BundleError: a decoder, or relative positions.
    """
    kind = config.model_type
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        raise BundleError(
            f"{kind}: position_embedding_type {config.position_embedding_type!r}: only 'absolute'"
        )
    if getattr(config, "is_decoder", False):
        raise BundleError(f"{kind}: is_decoder is not supported; export the encoder")


def multi_head(config: Any) -> AttentionShape:
    """As many key as query heads, scores scaled by 1 / sqrt(d)."""
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    return AttentionShape(heads, heads, size, size**-0.5)


def position_table(modules: Modules) -> torch.Tensor:
    """The learned positions, float32 [rows, E]. One text has one segment, so its row is part of each."""
    table = modules.weights("embeddings.position_embeddings.weight")
    kinds = modules.weights.optional("embeddings.token_type_embeddings.weight")
    return table if kinds is None else table + kinds[0]


def embedding(
    modules: Modules, mask: AttentionMask, positions: nn.Module, epsilon: float, *after: nn.Module
) -> Embed:
    """Words plus positions, normalised; then what stands after that."""
    norm = modules.layer_norm("embeddings.LayerNorm", epsilon)
    words = modules.weights("embeddings.word_embeddings.weight")
    return Embed(words, {"mask": mask}, positions=positions, after=(norm, *after))


def attention(path: str, names: Names, shape: AttentionShape, modules: Modules) -> Attention:
    """A layer's attention."""
    return Attention(shape, *projections(path, names, modules))


def projections(path: str, names: Names, modules: Modules) -> list[AdaptedLinear]:
    """An attention's: query, key, value, output."""
    parts = (names.query, names.key, names.value, names.output)
    return [modules.linear(f"{path}.{part}") for part in parts]


def layer(
    path: str,
    names: Names,
    inner: Attention,
    activation_name: str,
    epsilon: float,
    modules: Modules,
    norm_first: bool = False,
) -> Block:
    """Attention and feed-forward, each a residual branch with its norm around it or, norm_first, inside."""
    up, down = modules.linear(f"{path}.{names.up}"), modules.linear(f"{path}.{names.down}")
    feed_forward = FeedForward(up, down, activation(activation_name))
    first = modules.layer_norm(f"{path}.{names.attention_norm}", epsilon)
    second = modules.layer_norm(f"{path}.{names.feed_forward_norm}", epsilon)
    if norm_first:
        return Block([Residual(inner, before=first), Residual(feed_forward, before=second)])
    return Block([Residual(inner, outside=first), Residual(feed_forward, outside=second)])


def masked_head(
    config: Any, modules: Modules, dense: str, norm: nn.Module, bias: str, act: str, decoder: str
) -> LanguageHead:
    """The head of a masked language model: dense, activation, norm, then the word table and a bias."""
    transform = nn.Sequential(modules.frozen(dense), activation(act), norm)
    tied = "embeddings.word_embeddings" if config.tie_word_embeddings else decoder
    return LanguageHead(modules.table(f"{tied}.weight"), modules.table(bias), transform)


def _language_head(config: Any, modules: Modules) -> LanguageHead:
    path = "cls.predictions"
    norm = modules.layer_norm(f"{path}.transform.LayerNorm", config.layer_norm_eps)
    dense, bias, decoder = f"{path}.transform.dense", f"{path}.bias", f"{path}.decoder"
    return masked_head(config, modules, dense, norm, bias, config.hidden_act, decoder)
