"""DistilBERT encoders (Sanh et al. 2019, arXiv 1910.01108; model_type "distilbert")."""

from __future__ import annotations

from functools import partial
from typing import Any

from export.attention import AttentionShape
from export.blocks import Block
from export.embedding import AttentionMask, Embed, Positions
from export.families import Family, Modules
from export.families.bert import Names, attention, embedding, layer, masked_head, position_table
from export.tasks.language_head import LanguageHead

EPSILON = 1e-12  # transformers has it in the code, not in the configuration
NAMES = Names(
    "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
    "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm",
)  # fmt: skip


def family(config: Any, modules: Modules) -> Family:
    """The frozen encoder: BERT's layers by other names, and no token types.

    Raises:
        BundleError: an activation that is not supported.
    """
    max_tokens = min(modules.rules.max_tokens, config.max_position_embeddings)
    size = config.dim // config.n_heads
    shape = AttentionShape(config.n_heads, config.n_heads, size, size**-0.5)

    def embed() -> Embed:
        positions = Positions(position_table(modules)[:max_tokens])
        return embedding(modules, AttentionMask(shape.heads), positions, EPSILON)

    return Family(
        config.dim,
        max_tokens,
        embed,
        [partial(_block, i, shape, config, modules) for i in range(config.n_layers)],
        language_head=partial(_language_head, config, modules),
    )


def _block(i: int, shape: AttentionShape, config: Any, modules: Modules) -> Block:
    path = f"transformer.layer.{i}"
    inner = attention(path, NAMES, shape, modules)
    return layer(path, NAMES, inner, config.activation, EPSILON, modules)


def _language_head(config: Any, modules: Modules) -> LanguageHead:
    norm = modules.layer_norm("vocab_layer_norm", EPSILON)
    names = ("vocab_projector.bias", config.activation, "vocab_projector")
    return masked_head(config, modules, "vocab_transform", norm, *names)
