"""Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115; "qwen2"), Qwen3 (arXiv 2505.09388; "qwen3") decoders."""

from __future__ import annotations

from typing import Any

from export.families import Family, Modules
from export.families.llama import Variant, decoder


def family(config: Any, modules: Modules) -> Family:
    """The frozen decoder: Llama's with biases (Qwen2) or with normalised queries and keys (Qwen3)."""
    return decoder(config, modules, Variant(head_norms=config.model_type == "qwen3"))
