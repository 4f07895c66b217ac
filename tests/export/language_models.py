"""Tiny language models with their heads, and their logits by transformers and PEFT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from device_runtime.bundle import Bundle
from export.source import DEFAULT_MODEL, locate

COMMON: dict[str, Any] = {
    "vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
# Name → (model_type, what differs, LoRA's target modules, transformers' class).
LANGUAGE_MODELS: dict[str, tuple[str, dict[str, Any], tuple[str, ...], str]] = {
    "bert": ("bert", COMMON, ("query", "value"), "AutoModelForMaskedLM"),
    "llama": (
        "llama",
        {**COMMON, "num_key_value_heads": 2, "bos_token_id": 101, "eos_token_id": 102, "pad_token_id": 0},
        ("q_proj", "v_proj"),
        "AutoModelForCausalLM",
    ),
    "llama-tied": (
        "llama",
        {**COMMON, "num_hidden_layers": 2, "tie_word_embeddings": True, "pad_token_id": 0},
        ("q_proj", "down_proj"),
        "AutoModelForCausalLM",
    ),
}


def save_language_model(name: str, folder: Path, padding_side: str = "right") -> Path:
    """Writes a checkpoint with its head, random weights (norms too), and the packaged tokenizer."""
    import transformers

    model_type, changes, _, of = LANGUAGE_MODELS[name]
    torch.manual_seed(11)
    config = transformers.AutoConfig.for_model(model_type, **changes)
    model = getattr(transformers, of).from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        if parameter.dim() == 1:  # fresh ones are 0 and 1, which would hide a mix-up
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    model.save_pretrained(folder)
    source = locate(DEFAULT_MODEL).folder
    shutil.copy(source / "tokenizer.json", folder / "tokenizer.json")
    settings = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    settings = {**settings, "padding_side": padding_side, "eos_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return folder


def eager_model(name: str, bundle: Bundle, source: Path, adapter: torch.Tensor) -> Any:
    """Transformers' language model with PEFT's LoRA, which holds the adapter: every tensor under its name."""
    import transformers
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    kind = bundle.manifest.adapter
    config = LoraConfig(r=kind.r, lora_alpha=int(kind.lora_alpha), target_modules=list(kind.target_modules))
    base = getattr(transformers, LANGUAGE_MODELS[name][3]).from_pretrained(
        source, attn_implementation="eager"
    )
    model: Any = get_peft_model(base, config).eval()
    parts = {t.name: adapter[t.span].reshape(t.shape) for t in bundle.layout.tensors}
    outcome = set_peft_model_state_dict(model, parts)
    assert not outcome.unexpected_keys
    assert not [key for key in outcome.missing_keys if "lora" in key]
    return model
