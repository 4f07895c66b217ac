"""A random two-layer BERT of width 32, small enough for a whole federation in seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

WORDS = [f"word{number}" for number in range(60)]
CLASSES = ("cold", "hot")
MAX_TOKENS = 16


def write_model(folder: Path) -> Path:
    """Save config, weights and tokenizer as `save_pretrained` would."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder, safe_serialization=True)
    return folder


def write_bundle(model: Path, folder: Path) -> Path:
    """Export it as a user would, in a process of its own."""
    arguments = ["--model", str(model), "--classes", ",".join(CLASSES), "--max-tokens", str(MAX_TOKENS),
                 "--rank", "2", "--out", str(folder)]  # fmt: skip
    subprocess.run([sys.executable, "-m", "cooperllm", "export", *arguments], check=True, timeout=300)
    return folder


def write_table(path: Path, count: int, seed: int) -> Path:
    """Write distinct random texts; the words of a text's first half decide its class."""
    random = np.random.default_rng(seed)
    lines = ["text\tlabel"]
    for number in range(count):
        label = number % 2
        own = random.choice(30, 5) + 30 * label
        words = [WORDS[index] for index in [*own, *random.choice(60, 3)]]
        lines.append(f"{' '.join(words)} {seed}-{number}\t{CLASSES[label]}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
