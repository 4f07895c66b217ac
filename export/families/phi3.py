"""Phi-3 decoders (Abdin et al. 2024, arXiv 2404.14219; model_type "phi3")."""

from __future__ import annotations

from typing import Any

from export.families import Family, Modules
from export.families.llama import Variant, decoder


def family(config: Any, modules: Modules) -> Family:
    """The frozen decoder: Llama's with fused projections; a part of each head may be rotated only."""
    return decoder(config, modules, Variant(fused=True))
