"""The batch that every process of local_step.py takes: real text, so many tokens in every row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from device_runtime.bundle import Bundle
from device_runtime.text import Tokenizer

TEXTS = Path(__file__).parents[1] / "cooperllm" / "data" / "private.tsv"
Arrays = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def batch_arrays(bundle: Bundle, tokens: int) -> Arrays:
    """Ids, mask, labels and weights of one full batch without padding. Shapes: (B, T), (B, T), (B,), (B,)."""
    rows = bundle.manifest.chain.batch_examples
    texts = [line.split("\t")[0] for line in TEXTS.read_text().splitlines()[1:]]
    share = len(texts) // rows
    joined = [" ".join(texts[row * share : (row + 1) * share]) for row in range(rows)]
    encoded = Tokenizer(bundle.tokenizer_path, bundle.manifest.text).encode(joined, rows)
    ids = np.ascontiguousarray(encoded.input_ids[:, :tokens])
    labels = np.arange(rows, dtype=np.int64) % len(bundle.class_names)
    return ids, np.ones_like(ids), labels, np.ones(rows)
