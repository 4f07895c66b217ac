"""The model of pipeline.py: a BERT of eight layers with random weights and the packaged tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path


def source(cache: Path) -> Path:
    """The folder with its weights."""
    folder = cache / "pipeline-source"
    if not (folder / "tokenizer.json").exists():
        import torch
        from transformers import BertConfig, BertModel

        from export.source import DEFAULT_MODEL, locate

        torch.manual_seed(0)
        shape = BertConfig(
            hidden_size=256, num_hidden_layers=8, num_attention_heads=4, intermediate_size=1024,
            max_position_embeddings=128,
        )  # fmt: skip
        BertModel(shape).save_pretrained(folder)
        packaged = locate(DEFAULT_MODEL).folder
        for file in ("tokenizer_config.json", "tokenizer.json"):
            shutil.copy(packaged / file, folder / file)
    return folder
