"""Gemma 2 (arXiv 2408.00118; "gemma2") and the text models of Gemma 3 (arXiv 2503.19786; "gemma3_text")."""

from __future__ import annotations

from typing import Any

from device_runtime.errors import BundleError
from export.families import Family, Modules
from export.families.llama import Variant, decoder


def family(config: Any, modules: Modules) -> Family:
    """The frozen decoder: sandwiched norms with weights around 1, scaled words, capped scores and logits.

    Raises:
        BundleError: a model of images and text.
    """
    if config.model_type == "gemma3":
        raise BundleError(
            "gemma3 is a model of images and text; export its text model: "
            "Gemma3ForCausalLM.from_pretrained(model).save_pretrained(folder)"
        )
    third = config.model_type == "gemma3_text"
    everywhere = bool(config.use_bidirectional_attention)
    if everywhere and not third:
        raise BundleError(f"{config.model_type}: use_bidirectional_attention is not supported")
    variant = Variant(
        head_norms=third,
        sandwich=True,
        norm_offset=1.0,
        embed_scale=config.hidden_size**0.5,
        scale=config.query_pre_attn_scalar**-0.5,
        softcap=None if third else config.attn_logit_softcapping,
        logit_softcap=config.final_logit_softcapping,
        causal=not everywhere,
    )
    return decoder(config, modules, variant)
