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

ENCODER: dict[str, Any] = {
    **COMMON, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 64,
}  # fmt: skip
WINDOWED: dict[str, Any] = {
    **GROUPED, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1,
}  # fmt: skip
GEMMA: dict[str, Any] = {
    **GROUPED, "head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
OPT: dict[str, Any] = {
    **COMMON, "num_attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 64, "pad_token_id": 1,
    "bos_token_id": 2, "eos_token_id": 2, "word_embed_proj_dim": 32, "init_std": 0.3,
}  # fmt: skip
QKV = ("q_proj", "v_proj")

# Name → (model_type, what differs from its class's defaults, LoRA's target modules).
MODELS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "llama": ("llama", GROUPED, ("q_proj", "v_proj", "down_proj")),
    "bert": ("bert", ENCODER, ("query", "value")),
    "distilbert": (
        "distilbert",
        {**COMMON, "dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 48, "max_position_embeddings": 64},
        ("q_lin", "v_lin"),
    ),
    "roberta": (
        "roberta",
        {**ENCODER, "pad_token_id": 1, "max_position_embeddings": 34, "type_vocab_size": 1},
        ("query", "value"),
    ),
    "albert": (
        "albert",
        {**ENCODER, "embedding_size": 16},
        ("query", "value", "ffn"),
    ),
    "deberta-v2": (
        "deberta-v2",
        {
            **ENCODER, "relative_attention": True, "position_buckets": 8, "max_relative_positions": -1,
            "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": "p2c|c2p",
            "position_biased_input": False, "type_vocab_size": 0,
        },
        ("query_proj", "key_proj", "value_proj"),
    ),
    "deberta-v2-xs": (
        "deberta-v2",
        {
            **ENCODER, "relative_attention": True, "pos_att_type": "c2p|p2c", "type_vocab_size": 2,
            "embedding_size": 16,
            "max_position_embeddings": 32,
        },
        ("query_proj", "pos_key_proj", "pos_query_proj"),
    ),
    "modernbert": (
        "modernbert",
        {**ENCODER, "local_attention": 8, "pad_token_id": 0, "cls_token_id": 1,
         "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
        ("Wqkv", "Wo"),
    ),
    "opt": ("opt", OPT, ("q_proj", "v_proj", "fc1")),
    "opt-350m": ("opt", {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16}, QKV),
    "qwen2": ("qwen2", WINDOWED, QKV),
    "qwen3": ("qwen3", {**WINDOWED, "head_dim": 16}, QKV),
    "gemma2": ("gemma2", {**GEMMA, "attn_logit_softcapping": 5.0}, QKV),
    "gemma3": (
        "gemma3_text",
        {
            **GEMMA,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        QKV,
    ),
    "phi3": (
        "phi3",
        {
            **GROUPED, "sliding_window": 7, "original_max_position_embeddings": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
        ("qkv_proj", "gate_up_proj"),
    ),
    "smollm3": ("smollm3", {**GROUPED, "no_rope_layers": [1, 0]}, QKV),
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


def save_tiny(
    name: str, folder: Path, padding_side: str = "right", language_model: bool = False, **changed: Any
) -> Path:
    """Writes a checkpoint of MODELS[name] with random weights (norms and biases too) and a tokenizer.

    Args:
        name: of MODELS.
        folder: where to.
        padding_side: what its tokenizer_config.json says.
        language_model: with the head of a masked or causal language model.
        changed: fields of its configuration, over those of MODELS.
    """
    import transformers

    from export.families import is_causal

    model_type, changes, _ = MODELS[name]
    torch.manual_seed(11)
    auto = transformers.AutoModel
    if language_model:
        causal = is_causal(model_type)
        auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM
    config = transformers.AutoConfig.for_model(model_type, **{**changes, **changed})
    model = auto.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        if parameter.dim() == 1:  # fresh ones are 0 and 1, which would hide a mix-up
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    model.save_pretrained(folder)
    _save_tokenizer(folder, padding_side, model.config.pad_token_id)
    return folder


def _save_tokenizer(folder: Path, padding_side: str, pad_id: int | None) -> None:
    source = locate(DEFAULT_MODEL).folder
    shutil.copy(source / "tokenizer.json", folder / "tokenizer.json")
    settings = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    settings |= {"padding_side": padding_side, "eos_token": "[SEP]"}
    if pad_id:  # RoBERTa's positions depend on it
        from tokenizers import Tokenizer

        settings["pad_token"] = Tokenizer.from_file(str(source / "tokenizer.json")).id_to_token(pad_id)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
