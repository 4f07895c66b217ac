"""Tiny random-weight models of the real architectures, as checkpoints with the packaged tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from export.source import DEFAULT_MODEL, locate

VOCABULARY = 30522  # of the packaged tokenizer
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "initializer_range": 0.3,
}
GROUPED: dict[str, Any] = {
    **COMMON, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip

# Name → (model_type, what differs from its class's defaults, LoRA's target modules).
MODELS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "llama": ("llama", GROUPED, ("q_proj", "v_proj", "down_proj")),
    "llama-3.2": (
        "llama",
        {
            **GROUPED,
            "head_dim": 16,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
            },
        },
        ("q_proj", "k_proj"),
    ),
}  # fmt: skip


def save_tiny(name: str, folder: Path, padding_side: str = "right") -> Path:
    """Writes a checkpoint of MODELS[name] with random weights (norms and biases too) and a tokenizer.

    Its tokenizer_config.json says on which side texts are padded.
    """
    from transformers import AutoConfig, AutoModel

    model_type, changes, _ = MODELS[name]
    torch.manual_seed(11)
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **changes), attn_implementation="eager")
    for parameter in model.parameters():
        if parameter.dim() == 1:  # fresh ones are 0 and 1, which would hide a mix-up
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    model.save_pretrained(folder)
    source = locate(DEFAULT_MODEL).folder
    shutil.copy(source / "tokenizer.json", folder / "tokenizer.json")
    settings = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "padding_side": padding_side}), "utf-8"
    )
    return folder
