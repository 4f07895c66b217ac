"""Llama decoders (Touvron et al. 2023; also TinyLlama, Llama 3.2, SmolLM), and what others do differently.

Qwen, Gemma, Phi-3 and SmolLM3 are `decoder(config, modules, Variant(...))`. What a configuration says itself
is read from it: grouped queries, biases, sliding windows and rotary positions by layer.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from device_runtime.errors import BundleError
from export.adapters import AdaptedLinear
from export.attention import Attention, AttentionShape
from export.blocks import Block, FeedForward, Final, Residual, activation
from export.embedding import AttentionMask, Embed, Rotary
from export.families import Family, Modules
from export.norms import RMSNorm
from export.tasks.language_head import LanguageHead

SLIDING = "sliding_attention"


@dataclass(frozen=True)
class Variant:
    """How a decoder differs from Llama.

    Attributes:
        fused: query, key and value are one matrix, gate and up another.
        head_norms: queries and keys are normalised by head, before the rotation.
        sandwich: each branch is normalised before and after.
        norm_offset: added to every norm's weight.
        embed_scale: of the words; None for 1.
        scale: of the scores; None for 1 / sqrt(d).
        softcap: of the scores; None for none.
        logit_softcap: of the language model's logits; None for none.
        causal: a token sees none after it.
    """

    fused: bool = False
    head_norms: bool = False
    sandwich: bool = False
    norm_offset: float = 0.0
    embed_scale: float | None = None
    scale: float | None = None
    softcap: float | None = None
    logit_softcap: float | None = None
    causal: bool = True


def family(config: Any, modules: Modules) -> Family:
    """The frozen decoder, its final norm included."""
    return decoder(config, modules, Variant())


def decoder(config: Any, modules: Modules, variant: Variant) -> Family:
    """A frozen decoder in the manner of Llama, its final norm included.

    Raises:
        BundleError: a kind of layer or an activation that is not supported.
    """
    max_tokens = min(modules.rules.max_tokens, config.max_position_embeddings)
    shapes = [_shape(i, config, max_tokens, variant) for i in range(config.num_hidden_layers)]

    def embed() -> Embed:
        words = modules.weights("embed_tokens.weight")
        return Embed(words, _context(shapes, config, modules, max_tokens, variant), scale=variant.embed_scale)

    def language_head() -> LanguageHead:
        name = "embed_tokens" if config.tie_word_embeddings else "lm_head"
        bias = None if config.tie_word_embeddings else modules.weights.optional("lm_head.bias", modules.words)
        return LanguageHead(modules.table(f"{name}.weight"), bias, softcap=variant.logit_softcap)

    return Family(
        config.hidden_size,
        max_tokens,
        embed,
        [partial(_block, f"layers.{i}", s, config, modules, variant) for i, s in enumerate(shapes)],
        lambda: Final(modules.rms_norm("norm", config.rms_norm_eps, variant.norm_offset)),
        language_head=language_head,
    )


def _shape(i: int, config: Any, max_tokens: int, variant: Variant) -> AttentionShape:
    """Layer i's attention: its mask and rotary tables by name, "local" in front where they are of its own."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    # A window without layer_types is every layer's (Phi-3).
    kind = kinds[i] if kinds else SLIDING if window else "full_attention"
    if kind not in (SLIDING, "full_attention"):
        raise BundleError(f"{config.model_type}: layers of type {kind!r} are not supported")
    slides = kind == SLIDING and window is not None and window < max_tokens
    scale = size**-0.5 if variant.scale is None else variant.scale
    shape = AttentionShape(heads, kv_heads, size, scale, "local_mask" if slides else "mask")
    shape = replace(shape, softcap=variant.softcap)
    rotated = getattr(config, "no_rope_layers", None)  # 1 where a layer has rotary positions
    if rotated and not rotated[i]:
        return shape
    local = "local_" if kind == SLIDING and _by_kind(config) else ""
    size = _rotary(config, max_tokens, bool(local)).size
    return replace(shape, cos=f"{local}cos", sin=f"{local}sin", rotary_size=size)


def _by_kind(config: Any) -> bool:
    """Whether sliding layers have rotary parameters of their own."""
    return SLIDING in config.rope_parameters


def _rotary(config: Any, max_tokens: int, local: bool) -> Rotary:
    kind = (SLIDING if local else "full_attention") if _by_kind(config) else None
    return Rotary.of(config, max_tokens, kind)


def _context(
    shapes: list[AttentionShape], config: Any, modules: Modules, max_tokens: int, variant: Variant
) -> dict[str, nn.Module]:
    """The masks and rotary tables that the layers name, each once."""
    kv_heads, group = shapes[0].kv_heads, shapes[0].heads // shapes[0].kv_heads
    padding = modules.rules.left_padding or not variant.causal
    context: dict[str, nn.Module] = {}
    for shape in shapes:
        window = config.sliding_window if shape.mask == "local_mask" else None
        if shape.mask not in context:
            context[shape.mask] = AttentionMask(kv_heads, group, variant.causal, window, padding)
        if shape.cos and shape.cos not in context:
            rotary = _rotary(config, max_tokens, shape.cos == "local_cos")
            context |= {shape.cos: rotary.cos, shape.sin: rotary.sin}
    return context


def _block(path: str, shape: AttentionShape, config: Any, modules: Modules, variant: Variant) -> Block:
    def norm(name: str) -> RMSNorm:
        return modules.rms_norm(f"{path}.{name}", config.rms_norm_eps, variant.norm_offset)

    head_norms = [norm("self_attn.q_norm"), norm("self_attn.k_norm")] if variant.head_norms else []
    projections = _projections(f"{path}.self_attn", shape, modules, variant)
    attention = Attention(shape, *projections, *head_norms)
    feed_forward = _feed_forward(f"{path}.mlp", config, modules, variant)
    first, second = norm("input_layernorm"), norm("post_attention_layernorm")
    if not variant.sandwich:
        return Block([Residual(attention, first), Residual(feed_forward, second)])
    third, fourth = norm("pre_feedforward_layernorm"), norm("post_feedforward_layernorm")
    return Block([Residual(attention, first, second), Residual(feed_forward, third, fourth)])


def _projections(
    path: str, shape: AttentionShape, modules: Modules, variant: Variant
) -> tuple[AdaptedLinear, AdaptedLinear, AdaptedLinear, AdaptedLinear]:
    """Query, key, value, output."""
    output = modules.linear(f"{path}.o_proj")
    if not variant.fused:
        query, key, value = (modules.linear(f"{path}.{name}_proj") for name in "qkv")
        return query, key, value, output
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    ends = (0, queries, queries + keys, queries + 2 * keys)
    query, key, value = (modules.linear(f"{path}.qkv_proj", slice(a, b)) for a, b in itertools.pairwise(ends))
    return query, key, value, output


def _feed_forward(path: str, config: Any, modules: Modules, variant: Variant) -> FeedForward:
    act = activation(getattr(config, "hidden_activation", None) or config.hidden_act)
    down = modules.linear(f"{path}.down_proj")
    if not variant.fused:
        return FeedForward(
            modules.linear(f"{path}.up_proj"), down, act, gate=modules.linear(f"{path}.gate_proj")
        )
    size, both = config.intermediate_size, f"{path}.gate_up_proj"
    gate = modules.linear(both, slice(0, size))
    return FeedForward(modules.linear(both, slice(size, 2 * size)), down, act, gate)
