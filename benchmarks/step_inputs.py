"""What the processes of local_step.py and forward.py take: the program, and batches of real text."""

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


def ragged_arrays(bundle: Bundle, tokens: int) -> Arrays:
    """The same batch with texts of different lengths, the longest of them `tokens`: padding as it is met."""
    ids, mask, labels, weights = batch_arrays(bundle, tokens)
    rows = len(labels)
    text = bundle.manifest.text
    for row in range(1, rows):
        length = tokens - row * tokens * 3 // (4 * rows)  # down to a third or so
        ids[row, length:], mask[row, length:] = text.pad_id, 0
    if text.padding_side == "left":
        for row in range(rows):
            length = int(mask[row].sum())
            ids[row], mask[row] = np.roll(ids[row], tokens - length), np.roll(mask[row], tokens - length)
    return ids, mask, labels, weights
