"""Normalisations, written so that XNNPACK takes them: each mean is a linear with a constant row of 1/D.

native_layer_norm, or mean over the last dimension, would stay outside the delegate and split it.
"""

from __future__ import annotations

import torch
from torch import nn


class LayerNorm(nn.Module):
    """(x − mean) / sqrt(variance + ε) ⊙ weight + bias (Ba et al. 2016, arXiv 1607.06450)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, epsilon: float) -> None:
        super().__init__()
        width = weight.shape[0]
        self.average: torch.Tensor
        self.epsilon: torch.Tensor
        self.weight: torch.Tensor
        self.bias: torch.Tensor | None
        self.register_buffer("average", torch.full((1, width), 1.0 / width))
        self.register_buffer("epsilon", torch.tensor([epsilon]))
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [..., D] → the same shape."""
        centred = x - nn.functional.linear(x, self.average)
        variance = nn.functional.linear(centred * centred, self.average, self.epsilon)
        scaled = centred * torch.rsqrt(variance) * self.weight
        return scaled if self.bias is None else scaled + self.bias


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + ε) ⊙ weight (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        width = weight.shape[0]
        self.average: torch.Tensor
        self.epsilon: torch.Tensor
        self.weight: torch.Tensor
        self.register_buffer("average", torch.full((1, width), 1.0 / width))
        self.register_buffer("epsilon", torch.tensor([epsilon]))
        self.register_buffer("weight", weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [..., D] → the same shape."""
        square = nn.functional.linear(x * x, self.average, self.epsilon)
        return x * torch.rsqrt(square) * self.weight
