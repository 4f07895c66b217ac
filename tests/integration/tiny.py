"""Data for the tiny bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WORDS = [f"word{number}" for number in range(60)]


def write_table(path: Path, count: int, classes: list[str], seed: int) -> Path:
    """Write distinct random texts; the words of a text's first half decide its class."""
    random = np.random.default_rng(seed)
    lines = ["text\tlabel"]
    share = len(WORDS) // len(classes)
    for number in range(count):
        label = number % len(classes)
        own = random.choice(share, 5) + share * label
        words = [WORDS[index] for index in [*own, *random.choice(len(WORDS), 3)]]
        lines.append(f"{' '.join(words)} {seed}-{number}\t{classes[label]}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
