"""Each adapter kind by eager transformers: PEFT's LoRA, or the paper's formula put into the model by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from device_runtime.bundle import Bundle
from device_runtime.lora_fa import frozen_factor

ROOT = "base_model.model."
Tensors = dict[str, torch.Tensor]


def eager_with_adapter(bundle: Bundle, source: Path, adapter: torch.Tensor) -> Callable[..., torch.Tensor]:
    """→ a function (ids, mask) → logits [B,C], mean-pooled, of transformers' model with an adapter (n,)."""
    from transformers import AutoModel

    parts = {
        t.name.removeprefix(ROOT): adapter[t.span].reshape(t.shape).clone() for t in bundle.layout.tensors
    }
    weight, bias = parts.pop("classifier.weight"), parts.pop("classifier.bias")
    model: Any = AutoModel.from_pretrained(source, attn_implementation="eager").eval()
    kind = bundle.manifest.adapter
    match kind.kind:
        case "lora" | "lora_fa":
            model = _peft(model, kind, parts)
        case "bottleneck":
            _bottlenecks(model, parts)
        case "prefix":
            _prefixes(model, parts)
        case "bitfit" | "full":
            outcome = model.load_state_dict(parts, strict=False)
            assert not outcome.unexpected_keys
        case "head":
            assert not parts

    def logits(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            real = mask[..., None].float()
            return ((hidden * real).sum(1) / real.sum(1)) @ weight.T + bias

    return logits


def _peft(model: Any, kind: Any, parts: Tensors) -> Any:
    """PEFT's own LoRA; LoRA-FA's frozen A among its tensors."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    if kind.kind == "lora_fa":
        inputs = {
            name: module.in_features
            for name, module in model.named_modules()
            if hasattr(module, "in_features")
        }
        for name in [name.removesuffix(".lora_B.weight") for name in parts]:
            full_name = f"{name}.lora_A.weight"
            factor = frozen_factor(kind.seed, ROOT + full_name, (kind.r, inputs[name]))
            parts[full_name] = torch.from_numpy(factor)
    config = LoraConfig(r=kind.r, lora_alpha=int(kind.lora_alpha), target_modules=list(kind.target_modules))
    model = get_peft_model(model, config).eval()
    outcome = set_peft_model_state_dict(model, {ROOT + name: tensor for name, tensor in parts.items()})
    assert not outcome.unexpected_keys
    assert not [name for name in outcome.missing_keys if "lora" in name]
    return model


def _bottlenecks(model: Any, parts: Tensors) -> None:
    """h + U gelu(D h + d) + u after every module that has one (Houlsby et al. 2019, figure 2)."""

    def after(name: str) -> Callable[..., torch.Tensor]:
        down, d, up, u = (
            parts.pop(f"{name}.adapter_{part}")
            for part in ("down.weight", "down.bias", "up.weight", "up.bias")
        )
        return lambda module, inputs, h: h + torch.nn.functional.gelu(h @ down.T + d) @ up.T + u

    modules = dict(model.named_modules())
    for name in [name.removesuffix(".adapter_up.weight") for name in parts if name.endswith("_up.weight")]:
        modules[name].register_forward_hook(after(name))
    assert not parts


def _prefixes(model: Any, parts: Tensors) -> None:
    """softmax([q Kp ; q K + mask]) [Vp ; V] in every layer (Li and Liang 2021)."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    def attention(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
    ) -> tuple[torch.Tensor, None]:
        batch, heads, tokens, size = query.shape
        group = heads // key.shape[1]
        key, value = (x.repeat_interleave(group, 1) for x in (key, value))
        scaling = options.get("scaling") or size**-0.5
        scores = query @ key.transpose(2, 3) * scaling
        if mask is not None:
            scores = scores + mask[..., :tokens]
        prefix_key, prefix_value = (
            parts[f"blocks.{module.layer_idx}.prefix_{part}"]
            .view(-1, heads // group, size)
            .transpose(0, 1)
            .repeat_interleave(group, 0)
            for part in ("key", "value")
        )
        scores = torch.cat([query @ prefix_key.transpose(1, 2) * scaling, scores], -1)
        values = torch.cat([prefix_value.expand(batch, -1, -1, -1), value], 2)
        return (scores.softmax(-1) @ values).transpose(1, 2).contiguous(), None

    AttentionInterface.register("prefixed", attention)
    AttentionMaskInterface.register("prefixed", eager_mask)
    model.set_attn_implementation("prefixed")
    layers = {int(re.split(r"\.", name)[1]) for name in parts}
    assert layers == set(range(model.config.num_hidden_layers))
