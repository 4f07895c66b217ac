"""DeBERTa-v2 and v3 encoders (He et al. 2021, arXiv 2006.03654 and 2111.09543; model_type "deberta-v2")."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from device_runtime.errors import BundleError
from export.attention import Attention, AttentionShape
from export.blocks import Block
from export.disentangled import DisentangledAttention, OffsetPick, relative_rows
from export.embedding import AttentionMask, Embed, Positions
from export.families import Family, Modules
from export.families.bert import Names, layer, masked_head, multi_head, projections
from export.tasks.language_head import LanguageHead

NAMES = Names("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj")


def family(config: Any, modules: Modules) -> Family:
    """The frozen encoder.

    Raises:
        BundleError: no relative attention, a convolution, or an activation that is not supported.
    """
    if getattr(config, "conv_kernel_size", 0) > 0:
        raise BundleError(f"deberta-v2: conv_kernel_size {config.conv_kernel_size} is not supported; only 0")
    if not config.relative_attention:
        raise BundleError("deberta-v2: relative_attention = false is not supported")
    max_tokens = min(modules.rules.max_tokens, config.max_position_embeddings)
    return Family(
        config.hidden_size,
        max_tokens,
        partial(_embed, config, modules, max_tokens),
        [partial(_block, i, config, modules, max_tokens) for i in range(config.num_hidden_layers)],
        language_head=partial(_language_head, config, modules),
    )


def _embed(config: Any, modules: Modules, max_tokens: int) -> Embed:
    """Words, with absolute positions and the row of a text's one segment where the family has them."""
    words = modules.weights("embeddings.word_embeddings.weight")
    after: list[nn.Module] = [modules.layer_norm("embeddings.LayerNorm", config.layer_norm_eps)]
    if words.shape[1] != config.hidden_size:
        after.insert(0, modules.frozen("embeddings.embed_proj"))
    table = torch.zeros(max_tokens, words.shape[1], device=words.device)
    if config.position_biased_input:
        table = modules.weights("embeddings.position_embeddings.weight")[:max_tokens]
    if config.type_vocab_size > 0:
        table = table + modules.weights("embeddings.token_type_embeddings.weight")[0]
    absolute = config.position_biased_input or config.type_vocab_size > 0
    context = {"mask": AttentionMask(config.num_attention_heads), "offsets": OffsetPick(max_tokens)}
    return Embed(
        words, context, positions=Positions(table) if absolute else None, after=after, zero_padding=True
    )


def _block(i: int, config: Any, modules: Modules, max_tokens: int) -> Block:
    path = f"encoder.layer.{i}"
    inner = _attention(path, config, modules, max_tokens)
    return layer(path, NAMES, inner, config.hidden_act, config.layer_norm_eps, modules)


def _attention(path: str, config: Any, modules: Modules, max_tokens: int) -> Attention:
    kinds = config.pos_att_type or []
    plain = multi_head(config)
    parts = projections(path, NAMES, modules)
    scale = (plain.head_size * (1 + ("c2p" in kinds) + ("p2c" in kinds))) ** -0.5
    shape = AttentionShape(plain.heads, plain.heads, plain.head_size, scale)
    own = not getattr(config, "share_att_key", False)
    key = query = None
    if "c2p" in kinds:
        key = modules.linear(f"{path}.attention.self.pos_key_proj") if own else parts[1]
    if "p2c" in kinds:
        query = modules.linear(f"{path}.attention.self.pos_query_proj") if own else parts[0]
    return DisentangledAttention(shape, parts, _relative(config, modules, max_tokens), key, query)


def _relative(config: Any, modules: Modules, max_tokens: int) -> torch.Tensor:
    """The embedding of each offset, float32 [2M − 1, D]."""
    longest = getattr(config, "max_relative_positions", -1)
    longest = longest if longest > 0 else config.max_position_embeddings
    buckets = getattr(config, "position_buckets", -1)
    rows = relative_rows(max_tokens, buckets, longest, buckets if buckets > 0 else longest)
    table = modules.weights("encoder.rel_embeddings.weight")
    if "layer_norm" in getattr(config, "norm_rel_ebd", "none").lower():
        weight, bias = (modules.weights(f"encoder.LayerNorm.{part}") for part in ("weight", "bias"))
        table = nn.functional.layer_norm(table, table.shape[1:], weight, bias, config.layer_norm_eps)
    return table[rows.to(table.device)]


def _language_head(config: Any, modules: Modules) -> LanguageHead:
    path = "cls.predictions" if config.legacy else "lm_predictions.lm_head"
    inner = f"{path}.transform" if config.legacy else path
    norm = modules.layer_norm(f"{inner}.LayerNorm", config.layer_norm_eps)
    names = (f"{path}.bias", config.hidden_act, f"{path}.decoder")
    return masked_head(config, modules, f"{inner}.dense", norm, *names)
