"""RoBERTa encoders (Liu et al. 2019, arXiv 1907.11692; model_type "roberta")."""

from __future__ import annotations

from functools import partial
from typing import Any

from export.attention import AttentionShape
from export.blocks import Block
from export.embedding import AttentionMask, CountedPositions, Embed
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


def family(config: Any, modules: Modules) -> Family:
    """The frozen encoder: BERT's, but positions count real tokens from the row after the padding's.

    Raises:
        BundleError: a decoder, or a position embedding or activation that is not supported.
    """
    check(config)
    last_unused = config.pad_token_id
    max_tokens = min(modules.rules.max_tokens, config.max_position_embeddings - last_unused - 1)
    shape = multi_head(config)

    def embed() -> Embed:
        positions = CountedPositions(position_table(modules)[: last_unused + 1 + max_tokens], last_unused)
        return embedding(modules, AttentionMask(shape.heads), positions, config.layer_norm_eps)

    return Family(
        config.hidden_size,
        max_tokens,
        embed,
        [partial(_block, i, shape, config, modules) for i in range(config.num_hidden_layers)],
        language_head=partial(_language_head, config, modules),
    )


def _block(i: int, shape: AttentionShape, config: Any, modules: Modules) -> Block:
    path = f"encoder.layer.{i}"
    inner = attention(path, Names(), shape, modules)
    return layer(path, Names(), inner, config.hidden_act, config.layer_norm_eps, modules)


def _language_head(config: Any, modules: Modules) -> LanguageHead:
    norm = modules.layer_norm("lm_head.layer_norm", config.layer_norm_eps)
    return masked_head(config, modules, "lm_head.dense", norm, "lm_head.bias", "gelu", "lm_head.decoder")
