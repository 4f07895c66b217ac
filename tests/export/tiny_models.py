"""The tiny models of every family; the command that makes the table of what works has them, too."""

from __future__ import annotations

from benchmarks.tiny_models import MODELS, save_tiny

__all__ = ["MODELS", "save_tiny"]
