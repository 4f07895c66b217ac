"""What forward.py measures: a checkpoint and its bundles, made once and kept in the user's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

CLASSES = "alarms,calendar,lists_notes,media,messages,smart_home,weather"
# Name → (model_type, shape): random weights, because nothing here may download. None: the packaged MiniLM.
SHAPES: dict[str, tuple[str, dict[str, Any]] | None] = {
    "minilm": None,
    "opt-125m": (
        "opt",
        {
            "vocab_size": 50272, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
            "ffn_dim": 3072, "max_position_embeddings": 2048, "word_embed_proj_dim": 768,
        },
    ),
    "llama-small": (
        "llama",
        {
            "vocab_size": 30522, "hidden_size": 320, "num_hidden_layers": 4, "num_attention_heads": 8,
            "num_key_value_heads": 4, "intermediate_size": 864, "max_position_embeddings": 512,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
    ),
}  # fmt: skip
TARGETS = {"minilm": "query,value"}


def cache() -> Path:
    """Where benchmarks keep what takes long to make."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cooperllm" / "benchmarks"


def source_of(name: str) -> Path:
    """The folder with a model's weights."""
    from export.source import DEFAULT_MODEL, locate

    packaged = locate(DEFAULT_MODEL).folder
    shape = SHAPES[name]
    if shape is None:
        return packaged
    folder = cache() / f"{name}-source"
    if not (folder / "tokenizer.json").exists():
        _save_random(folder, *shape)
        for file in ("tokenizer_config.json", "tokenizer.json"):
            shutil.copy(packaged / file, folder / file)
    return folder


def bundle_of(
    name: str, precision: str, anew: bool = False, source: Path | None = None, both_signs: bool = False
) -> Path:
    """The folder of a model's bundle, exported in a process of its own, of that source or the shape's own.

    Raises RuntimeError with the exporter's one line when it refuses.
    """
    folder = cache() / (f"{name}-{precision}" + ("-both-signs" if both_signs else ""))
    if anew:
        shutil.rmtree(folder, ignore_errors=True)
    if not (folder / "manifest.json").exists():
        source = source or source_of(name)
        print(f"exporting {name} in {precision} to {folder}", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cooperllm", "export", "--model", str(source), "--classes", CLASSES]
        targets = TARGETS.get(name, "q_proj,v_proj")
        command += ["--target-modules", targets, "--pooling", "mean", "--out", str(folder)]
        command += ["--precision", precision, "--fidelity-directions", "0"]
        command += ["--both-signs"] if both_signs else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return folder


def _save_random(folder: Path, model_type: str, shape: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(model_type, **shape)).save_pretrained(folder)
