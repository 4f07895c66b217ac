"""A language model's own head: from hidden states to logits over the vocabulary, or over some words only."""

from __future__ import annotations

import torch
from torch import nn


class LanguageHead(nn.Module):
    """logits = cap(transform(hidden) Wᵀ + b), frozen; cap(x) = softcap · tanh(x / softcap) (Gemma 2).

    It is no target of an adapter kind, as PEFT leaves the output layer out as well.

    Args:
        weight: float32 [V, E]; with tied embeddings the word table itself. Or the rows of some words only.
        bias: float32 [V], or None.
        transform: [.., D] → [.., E] before the product, e.g. BERT's dense, activation, norm; None for none.
        softcap: None for logits as they are.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        transform: nn.Module | None = None,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        self.weight: torch.Tensor
        self.bias: torch.Tensor | None
        self.cap: torch.Tensor
        self.uncap: torch.Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("cap", None if softcap is None else torch.tensor([softcap]))
        self.register_buffer("uncap", None if softcap is None else torch.tensor([1.0 / softcap]))
        self.transform, self.softcap = transform, softcap

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden float32 [.., D] → logits float32 [.., V]."""
        if self.transform is not None:
            hidden = self.transform(hidden)
        logits = nn.functional.linear(hidden, self.weight, self.bias)
        return logits if self.softcap is None else torch.tanh(logits * self.uncap) * self.cap
