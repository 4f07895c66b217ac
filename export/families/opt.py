"""OPT decoders (Zhang et al. 2022, arXiv 2205.01068; model_type "opt")."""

from __future__ import annotations

from functools import partial
from typing import Any

from device_runtime.errors import BundleError
from export.attention import AttentionShape
from export.blocks import Block, Final
from export.embedding import AttentionMask, CountedPositions, Embed
from export.families import Family, Modules
from export.families.bert import Names, attention, layer, multi_head
from export.tasks.language_head import LanguageHead

EPSILON = 1e-5  # transformers has it in the code, not in the configuration
FIRST_ROW = 2  # of the position table that a token has
NAMES = Names(
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj",
    "self_attn_layer_norm", "fc1", "fc2", "final_layer_norm",
)  # fmt: skip


def family(config: Any, modules: Modules) -> Family:
    """The frozen decoder, its final norm included.

    Raises:
        BundleError: norms without weights, or an activation that is not supported.
    """
    if not config.layer_norm_elementwise_affine:
        raise BundleError("opt: layer_norm_elementwise_affine = false is not supported")
    max_tokens = min(modules.rules.max_tokens, config.max_position_embeddings)
    shape = multi_head(config)

    def embed() -> Embed:
        table = modules.weights("decoder.embed_positions.weight")[: FIRST_ROW + max_tokens]
        mask = AttentionMask(shape.heads, causal=True, padding=modules.rules.left_padding)
        return Embed(
            modules.weights("decoder.embed_tokens.weight"),
            {"mask": mask},
            positions=CountedPositions(table, FIRST_ROW - 1),
            before=modules.frozen("decoder.project_in") if _narrow(config) else None,
        )

    normed = config.do_layer_norm_before and not config._remove_final_layer_norm
    return Family(
        config.hidden_size,
        max_tokens,
        embed,
        [partial(_block, i, shape, config, modules) for i in range(config.num_hidden_layers)],
        (lambda: Final(modules.layer_norm("decoder.final_layer_norm", EPSILON))) if normed else None,
        language_head=partial(_language_head, config, modules),
        project=partial(modules.frozen, "decoder.project_out") if _narrow(config) else None,
        projected_size=config.word_embed_proj_dim,
    )


def _narrow(config: Any) -> bool:
    """Whether words are narrower than hidden states (OPT-350M)."""
    return bool(config.word_embed_proj_dim != config.hidden_size)


def _block(i: int, shape: AttentionShape, config: Any, modules: Modules) -> Block:
    path, first = f"decoder.layers.{i}", config.do_layer_norm_before
    inner = attention(path, NAMES, shape, modules)
    return layer(path, NAMES, inner, config.activation_function, EPSILON, modules, norm_first=first)


def _language_head(config: Any, modules: Modules) -> LanguageHead:
    tied = "decoder.embed_tokens" if config.tie_word_embeddings else "lm_head"
    return LanguageHead(modules.table(f"{tied}.weight"))
