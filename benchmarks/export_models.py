"""Exports of large models: time, peak memory, the program's size, and a step on a device.

    python -m benchmarks.export_models [--models A,B,…] [--precision P] [--threads N] [--quick] [--json FILE]

The checkpoints have the shapes of published models and random weights in bfloat16, made once in the user's
cache. Each is exported in a process of its own, without a measurement of its fidelity (random weights have
none that would say anything), and a device takes one step of one direction with 8 examples of 16 tokens.
Goals: OPT-125M's shape within 10 minutes; Llama-3.2-1B's with int4 within 30 minutes, on 24 GiB, its program
below 1.1 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.processes import run_child

TOKENS = 16
BERT = {"vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
OPT = {"vocab_size": 50272, "max_position_embeddings": 2048}
ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
LLAMA = {
    "vocab_size": 128256, "intermediate_size": 8192, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072, "tie_word_embeddings": True,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    },
}  # fmt: skip
# Name → (model_type, shape).
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "minilm": ("bert", BERT),
    "opt-125m": ("opt", {**OPT, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                         "ffn_dim": 3072, "word_embed_proj_dim": 768}),
    "opt-tiny": ("opt", {**OPT, "vocab_size": 8192, "hidden_size": 768, "num_hidden_layers": 2,
                         "num_attention_heads": 12, "ffn_dim": 3072, "word_embed_proj_dim": 768}),
    "llama-3.2-1b": ("llama", {**LLAMA, "hidden_size": 2048, "num_hidden_layers": 16,
                               "num_attention_heads": 32, "head_dim": 64}),
    "roberta-large": ("roberta", {**ROBERTA, "hidden_size": 1024, "num_hidden_layers": 24,
                                  "num_attention_heads": 16, "intermediate_size": 4096}),
    "opt-1.3b": ("opt", {**OPT, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32,
                         "ffn_dim": 8192, "word_embed_proj_dim": 2048}),
    "llama-3.2-3b": ("llama", {**LLAMA, "hidden_size": 3072, "num_hidden_layers": 28,
                               "num_attention_heads": 24, "head_dim": 128}),
}  # fmt: skip
DEFAULT_MODELS = ("minilm", "opt-125m", "llama-3.2-1b")
WIDTHS = (10, 12, 12, 12, 10, 10, 12)
# Name → (seconds, bytes of the program) at most.
GOALS: dict[str, tuple[float, float | None]] = {"opt-125m": (600.0, None), "llama-3.2-1b": (1800.0, 1.1e9)}


def checkpoint(name: str) -> Path:
    """The folder of a checkpoint with random weights, one tensor at a time in bfloat16, and a tokenizer."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModel

    from export.source import DEFAULT_MODEL, locate

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "cooperllm" / "benchmarks" / f"{name}-bfloat16"
    if (folder / "tokenizer.json").exists():
        return folder
    model_type, shape = SHAPES[name]
    config = AutoConfig.for_model(model_type, **shape)
    with torch.device("meta"):
        outline = AutoModel.from_config(config).state_dict()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        key: (0.02 * torch.randn(value.shape, generator=generator) + (value.dim() == 1)).bfloat16()
        for key, value in outline.items()
        if value.is_floating_point()
    }
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors")
    for file in ("tokenizer_config.json", "tokenizer.json"):
        shutil.copy(locate(DEFAULT_MODEL).folder / file, folder / file)
    return folder


def measure(name: str, precision: str, threads: int) -> dict[str, Any]:
    """Exports a model and takes a step with it; memory in bytes."""
    source = checkpoint(name)
    with tempfile.TemporaryDirectory(prefix="cooperllm-export-") as work:
        folder = str(Path(work) / "bundle")
        numbers = (precision, str(threads))
        memory, row = run_child(
            "benchmarks.export_in_process", str(source), folder, *numbers, threads=threads
        )
        row["export_memory"] = asdict(memory)
        steps = (str(TOKENS), "1", str(threads))
        on_device, step = run_child("benchmarks.step_on_device", folder, *steps, threads=threads)
        row |= {"step_ms": step["step_ms"], "device_memory": asdict(on_device)}
    return row


def line(name: str, row: dict[str, Any]) -> str:
    """A model's figures for a terminal."""
    export, device = row["export_memory"], row["device_memory"]
    sizes = (export["peak_anonymous_bytes"], export["peak_rss_bytes"], row["program_bytes"])
    text = f"{name:14}{row['export_s']:10.0f}" + "".join(f"{size / 1e6:12.0f}" for size in sizes)
    text += f"{row['segments']:10}{row['step_ms']:10.0f}{device['peak_rss_bytes'] / 1e6:12.0f}"
    goal = GOALS.get(name)
    if goal is None:
        return text
    met = row["export_s"] <= goal[0] and (goal[1] is None or row["program_bytes"] < goal[1])
    return text + ("  goal met" if met else "  GOAL MISSED")


def main() -> int:
    """Measures, prints, and writes JSON where asked; 1 where a goal is missed or an export fails."""
    parser = argparse.ArgumentParser(prog="benchmarks.export_models", description=__doc__.split("\n")[0])
    parser.add_argument("--models", metavar="A,B,…", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--precision", choices=("fp32", "int8", "int4"), default="int4")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--quick", action="store_true", help="minilm only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    names = arguments.models.split(",") if arguments.models else list(DEFAULT_MODELS)
    names = ["minilm"] if arguments.quick else names
    if unknown := set(names) - set(SHAPES):
        parser.error(f"unknown models: {', '.join(sorted(unknown))}")
    heads = ("export s", "anon. MB", "peak MB", "program MB", "segments", "step ms", "device MB")
    print(f"{arguments.precision:14}" + "".join(f"{h:>{w}}" for h, w in zip(heads, WIDTHS, strict=True)))
    rows: dict[str, Any] = {}
    try:
        for name in names:
            rows[name] = measure(name, arguments.precision, arguments.threads)
            print(line(name, rows[name]), flush=True)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.json:
        figures = {"precision": arguments.precision, "threads": arguments.threads, "rows": rows}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(any("MISSED" in line(name, row) for name, row in rows.items()))


if __name__ == "__main__":
    sys.exit(main())
