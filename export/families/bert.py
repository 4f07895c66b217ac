"""BERT encoders (Devlin et al. 2019; model_type "bert")."""

from __future__ import annotations

from functools import partial
from typing import Any

from device_runtime.errors import BundleError
from export.attention import Attention, AttentionShape
from export.blocks import Block, FeedForward, Residual, activation
from export.embedding import AttentionMask, Embed, Positions
from export.families import Family, Modules


def family(config: Any, modules: Modules) -> Family:
    """The frozen encoder.

    Raises:
        BundleError: a decoder, or a position embedding or activation that is not supported.
    """
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        raise BundleError(
            f"bert: position_embedding_type {config.position_embedding_type!r}: only 'absolute'"
        )
    if config.is_decoder:
        raise BundleError("bert: is_decoder is not supported; export the encoder")
    max_tokens = min(modules.rules.max_tokens, config.max_position_embeddings)
    return Family(
        config.hidden_size,
        max_tokens,
        partial(_embed, config, modules, max_tokens),
        [partial(_block, f"encoder.layer.{i}", config, modules) for i in range(config.num_hidden_layers)],
    )


def _embed(config: Any, modules: Modules, max_tokens: int) -> Embed:
    # One text has one segment, so that segment's row is part of every position's.
    table = modules.weights("embeddings.position_embeddings.weight")[:max_tokens]
    kinds = modules.weights("embeddings.token_type_embeddings.weight")
    return Embed(
        modules.weights("embeddings.word_embeddings.weight"),
        {"mask": AttentionMask(config.num_attention_heads)},
        positions=Positions(table + kinds[0]),
        norm=modules.layer_norm("embeddings.LayerNorm", config.layer_norm_eps),
    )


def _block(path: str, config: Any, modules: Modules) -> Block:
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    attention = Attention(
        AttentionShape(heads, heads, size, size**-0.5),
        modules.linear(f"{path}.attention.self.query"),
        modules.linear(f"{path}.attention.self.key"),
        modules.linear(f"{path}.attention.self.value"),
        modules.linear(f"{path}.attention.output.dense"),
    )
    feed_forward = FeedForward(
        modules.linear(f"{path}.intermediate.dense"),
        modules.linear(f"{path}.output.dense"),
        activation(config.hidden_act),
    )
    norms = (f"{path}.attention.output.LayerNorm", f"{path}.output.LayerNorm")
    attended, fed = (modules.layer_norm(name, config.layer_norm_eps) for name in norms)
    return Block([Residual(attention, outside=attended), Residual(feed_forward, outside=fed)])
