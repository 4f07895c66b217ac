"""ALBERT encoders (Lan et al. 2020, arXiv 1909.11942; model_type "albert"): one layer, used many times."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from device_runtime.errors import BundleError
from export.attention import Attention, AttentionShape
from export.blocks import Block, Residual
from export.embedding import AttentionMask, Embed, Positions
from export.families import Family, Modules
from export.families.bert import (
    Names,
    attention,
    check,
    embedding,
    layer,
    masked_head,
    multi_head,
    position_table,
)
from export.tasks.language_head import LanguageHead

NAMES = Names(
    "attention.query", "attention.key", "attention.value", "attention.dense",
    "attention.LayerNorm", "ffn", "ffn_output", "full_layer_layer_norm",
)  # fmt: skip


def family(config: Any, modules: Modules) -> Family:
    """The frozen encoder.

    Raises:
        BundleError: several layers in a group, a position embedding or an activation that is not supported.
    """
    check(config)
    if config.inner_group_num != 1:
        raise BundleError(f"albert: inner_group_num {config.inner_group_num} is not supported; only 1")
    max_tokens = min(modules.rules.max_tokens, config.max_position_embeddings)
    shape = multi_head(config)

    def embed() -> Embed:
        positions = Positions(position_table(modules)[:max_tokens])
        wider = modules.frozen("encoder.embedding_hidden_mapping_in")
        return embedding(modules, AttentionMask(shape.heads), positions, config.layer_norm_eps, wider)

    # The weights of a group are held once.
    groups = [cache(partial(_block, g, shape, config, modules)) for g in range(config.num_hidden_groups)]
    layers = config.num_hidden_layers
    return Family(
        config.hidden_size,
        max_tokens,
        embed,
        [partial(_again, groups[i * len(groups) // layers]) for i in range(layers)],
        shared=True,
        language_head=partial(_language_head, config, modules),
    )


def _block(group: int, shape: AttentionShape, config: Any, modules: Modules) -> Block:
    path = f"encoder.albert_layer_groups.{group}.albert_layers.0"
    inner = attention(path, NAMES, shape, modules)
    return layer(path, NAMES, inner, config.hidden_act, config.layer_norm_eps, modules)


def _again(group: Callable[[], Block]) -> Block:
    """A layer with the group's weights, and an attention of its own for what an adapter kind adds to it."""
    branches: list[Any] = list(group().branches)
    attended, fed = branches
    inner = attended.inside
    own = Attention(inner.shape, inner.query, inner.key, inner.value, inner.output)
    return Block([Residual(own, outside=attended.outside), fed])


def _language_head(config: Any, modules: Modules) -> LanguageHead:
    norm = modules.layer_norm("predictions.LayerNorm", config.layer_norm_eps)
    names = ("predictions.bias", config.hidden_act, "predictions.decoder")
    return masked_head(config, modules, "predictions.dense", norm, *names)
