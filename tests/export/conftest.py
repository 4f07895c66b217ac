"""A tiny random BERT (2 layers, width 32) with the packaged MiniLM's vocabulary, and its bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from device_runtime.bundle import Bundle
from export.source import DEFAULT_MODEL, locate
from export.writer import Options, write_bundle

TINY_OPTIONS = {"class_names": ("red", "green", "blue"), "rank": 4, "max_tokens": 32, "batch_examples": 4}


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel

    torch.set_num_threads(1)
    torch.manual_seed(11)
    folder = tmp_path_factory.mktemp("tiny") / "tiny-bert"
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=48,
        initializer_range=0.3,
    )
    model = BertModel(config)
    for name, parameter in model.named_parameters():
        if "bias" in name or "LayerNorm" in name:  # fresh ones are 0 and 1, which would hide a mix-up
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(locate(DEFAULT_MODEL).folder / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    options = Options(model=str(tiny_source), **TINY_OPTIONS)  # type: ignore[arg-type]
    return write_bundle(options, tmp_path_factory.mktemp("bundles") / "tiny")
