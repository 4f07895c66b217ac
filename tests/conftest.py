"""What the whole test session shares: a tiny random BERT and its bundle, exported once, as a user would."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest

from device_runtime.bundle import Bundle


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 2 layers and width 32, with the packaged MiniLM's vocabulary."""
    import torch
    from transformers import BertConfig, BertModel

    from export.source import DEFAULT_MODEL, locate

    torch.set_num_threads(1)
    torch.manual_seed(2)
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
        if parameter.dim() == 1:  # fresh ones are 0 and 1, which would hide a mix-up
            torch.nn.init.normal_(parameter, float("LayerNorm.weight" in name), 0.3)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(locate(DEFAULT_MODEL).folder / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Its bundle: LoRA of rank 4, classes red, green and blue, two segments, batches of 4 × 32 tokens."""
    from export.command import add_arguments, run

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    options = ["--model", str(tiny_source), "--classes", "red,green,blue", "--out", str(folder)]
    sizes = ["--rank", "4", "--max-tokens", "32", "--batch-examples", "4"]
    precision = ["--precision", "fp32", "--fidelity-directions", "0"]
    assert run(parser.parse_args(options + sizes + precision)) == 0
    return Bundle.open(folder)


@pytest.fixture(scope="session")
def one_layer(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT's first layer alone: half as long to lower."""
    folder = tmp_path_factory.mktemp("one") / "one-layer"
    shutil.copytree(tiny_source, folder)
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "num_hidden_layers": 1}))
    return folder
