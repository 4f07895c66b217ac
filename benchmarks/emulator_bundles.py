"""The bundles that emulator.py and the tests marked `emulator` run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.forward_models import bundle_of, cache

CLASSES = "red,green,blue"
TINY_ROWS, TINY_TOKENS = 2, 16
MINILM_TOKENS = {"int8": 64, "fp32": 8}  # what an emulated step manages in less than a minute
# Exports in a process of its own, so that whoever asks need not hold torch.
_EXPORT = """
import sys
from pathlib import Path
import torch
from benchmarks.tiny_models import save_tiny
from export.writer import Options, write_bundle

torch.set_num_threads(1)
model, folder, classes, rows, tokens = sys.argv[1:]
save_tiny("bert", Path(model), hidden_size=64, intermediate_size=128)
write_bundle(Options(class_names=tuple(classes.split(",")), model=model, rank=4, segments=2,
                     batch_examples=int(rows), max_tokens=int(tokens)), folder)
"""


def export_tiny(folder: Path) -> Path:
    """Exports a BERT of 2 layers × 64 with random weights into folder/bundle, its weights into folder/model.

    LoRA of rank 4, two segments, batches of 2 × 16 tokens. Returns folder/bundle.
    Raises RuntimeError with what the exporter said.
    """
    bundle = folder / "bundle"
    given = [str(folder / "model"), str(bundle), CLASSES, str(TINY_ROWS), str(TINY_TOKENS)]
    done = subprocess.run(
        [sys.executable, "-c", _EXPORT, *given], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return bundle


def tiny() -> Path:
    """The same, exported once and kept in the user's cache."""
    folder = cache() / "emulated-tiny"
    if not (folder / "bundle" / "manifest.json").exists():
        print(f"exporting a tiny bundle to {folder}", file=sys.stderr)
        export_tiny(folder)
    return folder / "bundle"


def minilm(precision: str) -> Path:
    """MiniLM's bundle, exported once and kept in the user's cache.

    COOPERLLM_MINILM_INT8 or COOPERLLM_MINILM_FP32 may name another.
    """
    given = os.environ.get(f"COOPERLLM_MINILM_{precision.upper()}")
    if given:
        return Path(given)
    return bundle_of("minilm", precision)
