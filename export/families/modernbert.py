"""ModernBERT encoders (Warner et al. 2024, arXiv 2412.13663; model_type "modernbert")."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from export.attention import Attention, AttentionShape
from export.blocks import Block, FeedForward, Final, Residual, activation
from export.embedding import AttentionMask, Embed, Rotary
from export.families import Family, Modules
from export.tasks.language_head import LanguageHead

LOCAL = "sliding_attention"


def family(config: Any, modules: Modules) -> Family:
    """The frozen encoder: pre-norm, rotary positions, most layers see a window around each token only.

    Raises:
        BundleError: an activation that is not supported.
    """
    max_tokens = min(modules.rules.max_tokens, config.max_position_embeddings)
    heads, kinds = config.num_attention_heads, config.layer_types

    def embed() -> Embed:
        context: dict[str, nn.Module] = {}
        for kind in sorted(set(kinds)):
            # sliding_window places to either side, so the first that lies too far is one further.
            window = config.sliding_window + 1 if kind == LOCAL else None
            rotary = Rotary.of(config, max_tokens, kind)
            tables = {f"{kind}_cos": rotary.cos, f"{kind}_sin": rotary.sin}
            context |= {f"{kind}_mask": AttentionMask(heads, window=window), **tables}
        words = modules.weights("embeddings.tok_embeddings.weight")
        return Embed(words, context, after=[modules.layer_norm("embeddings.norm", config.norm_eps)])

    return Family(
        config.hidden_size,
        max_tokens,
        embed,
        [partial(_block, i, config, modules) for i in range(config.num_hidden_layers)],
        lambda: Final(modules.layer_norm("final_norm", config.norm_eps)),
        language_head=partial(_language_head, config, modules),
    )


def _block(i: int, config: Any, modules: Modules) -> Block:
    path, kind, width = f"layers.{i}", config.layer_types[i], config.hidden_size
    heads, size = config.num_attention_heads, width // config.num_attention_heads
    shape = AttentionShape(heads, heads, size, size**-0.5, f"{kind}_mask", f"{kind}_cos", f"{kind}_sin")
    query, key, value = (
        modules.linear(f"{path}.attn.Wqkv", slice(start, start + width)) for start in (0, width, 2 * width)
    )
    attention = Attention(shape, query, key, value, modules.linear(f"{path}.attn.Wo"))
    both, inner = f"{path}.mlp.Wi", config.intermediate_size
    feed_forward = FeedForward(
        modules.linear(both, slice(inner, 2 * inner)),
        modules.linear(f"{path}.mlp.Wo"),
        activation(config.hidden_activation),
        gate=modules.linear(both, slice(0, inner)),
    )
    # The embedding's norm stands right before the first layer's attention already.
    before = modules.layer_norm(f"{path}.attn_norm", config.norm_eps) if i else None
    after = modules.layer_norm(f"{path}.mlp_norm", config.norm_eps)
    return Block([Residual(attention, before), Residual(feed_forward, after)])


def _language_head(config: Any, modules: Modules) -> LanguageHead:
    transform = nn.Sequential(
        modules.frozen("head.dense"),
        activation(config.classifier_activation),
        modules.layer_norm("head.norm", config.norm_eps),
    )
    tied = "embeddings.tok_embeddings" if config.tie_word_embeddings else "decoder"
    return LanguageHead(
        modules.table(f"{tied}.weight"), modules.weights.optional("decoder.bias", modules.words), transform
    )
