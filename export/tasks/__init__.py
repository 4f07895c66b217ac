"""Tasks: what the last segment computes from the hidden states. One file a task."""

from __future__ import annotations

import torch
from torch import nn


class Task(nn.Module):
    """What every task module offers besides its forward pass; see sequence_classification.py.

    Attributes:
        head_tokens: how many tokens one run of the head takes, where the targets are tokens; else 0.
        vocabulary: of how many tokens such targets may be; else 0.
        linear: (weight, bias), the names of the tensors of a head that is one linear layer over `features`.
    """

    head_tokens: int = 0
    vocabulary: int = 0
    linear: tuple[str, str] | None = None

    def features(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """What a linear head reads of each text: [B,T,D], [B,T] → float32 [1,B,D]."""
        raise NotImplementedError

    def condensed(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden [B,T,D] and attention_mask [B,T] float32 → as little as gives the same logits.

        A task that reads every token keeps them all; one that pools them first keeps the pooled ones.
        """
        return hidden, attention_mask


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """−log softmax(logits)[label] in nats: float32 [B,C], int64 [B] → float32 [B]."""
    log_probability = torch.log_softmax(logits, -1)
    return -log_probability.gather(1, labels.view(logits.shape[0], 1)).squeeze(1)


def linear_logits(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """float32 [1,B,D], [C,D], [C] → [1,B,C]; both factors are inputs of the program, so as a bmm."""
    return torch.bmm(features, weight.view(1, *weight.shape).permute(0, 2, 1)) + bias
