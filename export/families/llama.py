"""Llama decoders (Touvron et al. 2023; model_type "llama": also TinyLlama, Llama 3.2, SmolLM)."""

from __future__ import annotations

from functools import partial
from typing import Any

from export.attention import Attention, AttentionShape
from export.blocks import Block, FeedForward, Final, Residual, activation
from export.embedding import AttentionMask, Embed, Rotary
from export.families import Family, Modules


def family(config: Any, modules: Modules) -> Family:
    """The frozen decoder, its final norm included."""
    max_tokens = min(modules.rules.max_tokens, config.max_position_embeddings)
    rotary = Rotary.of(config, max_tokens)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    shape = AttentionShape(heads, kv_heads, size, size**-0.5, cos="cos", sin="sin", rotary_size=rotary.size)

    def embed() -> Embed:
        mask = AttentionMask(kv_heads, heads // kv_heads, causal=True, padding=modules.rules.left_padding)
        context = {"mask": mask, "cos": rotary.cos, "sin": rotary.sin}
        return Embed(modules.weights("embed_tokens.weight"), context)

    return Family(
        config.hidden_size,
        max_tokens,
        embed,
        [partial(_block, f"layers.{i}", shape, config, modules) for i in range(config.num_hidden_layers)],
        lambda: Final(modules.rms_norm("norm", config.rms_norm_eps)),
    )


def _block(path: str, shape: AttentionShape, config: Any, modules: Modules) -> Block:
    attention = Attention(
        shape, *(modules.linear(f"{path}.self_attn.{name}_proj") for name in ("q", "k", "v", "o"))
    )
    feed_forward = FeedForward(
        modules.linear(f"{path}.mlp.up_proj"),
        modules.linear(f"{path}.mlp.down_proj"),
        activation(config.hidden_act),
        gate=modules.linear(f"{path}.mlp.gate_proj"),
    )
    norms = (f"{path}.input_layernorm", f"{path}.post_attention_layernorm")
    before_attention, before_feed_forward = (modules.rms_norm(name, config.rms_norm_eps) for name in norms)
    return Block([Residual(attention, before_attention), Residual(feed_forward, before_feed_forward)])
