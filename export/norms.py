"""Normalisations, written so that XNNPACK takes them: each mean is a linear with a constant row of 1/D.

native_layer_norm, or mean over the last dimension, would stay outside the delegate and split it.
"""

from __future__ import annotations

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]


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

    def forward(self, x: torch.Tensor, adapter: Tensors | None = None) -> torch.Tensor:
        """x float32 [..., D] → the same shape; kinds that train a norm derive from it and read `adapter`."""
        return self.scaled(x, self.weight, self.bias)

    def scaled(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The same with another weight and bias, float32 [D]."""
        centred = x - nn.functional.linear(x, self.average)
        variance = nn.functional.linear(centred * centred, self.average, self.epsilon)
        scaled = centred * torch.rsqrt(variance) * weight
        return scaled if bias is None else scaled + bias


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

    def forward(self, x: torch.Tensor, adapter: Tensors | None = None) -> torch.Tensor:
        """x float32 [..., D] → the same shape; kinds that train a norm derive from it and read `adapter`."""
        return self.scaled(x, self.weight)

    def scaled(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The same with another weight, float32 [D]."""
        square = nn.functional.linear(x * x, self.average, self.epsilon)
        return x * torch.rsqrt(square) * weight
