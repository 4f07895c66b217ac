"""Model families: one file each. A family gives `embed`, its blocks, and the width that the task sees."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn


class Family(Protocol):
    """A frozen model as an embedding, a list of blocks, and its measures.

    Attributes:
        name: the manifest's `family`, equal to Hugging Face's model_type.
        hidden_size: D.
        max_positions: the longest sequence that the position table allows, in tokens.
        embed: (input_ids int64 [B,T], attention_mask int64 [B,T]) → (hidden float32 [B,T,D], mask float32
            [...,T]); the mask is what the blocks want of it, made once, and its last size is T.
        blocks: each (hidden, mask, adapter: name → tensor) → hidden.
    """

    name: str
    hidden_size: int
    max_positions: int
    embed: nn.Module
    blocks: list[nn.Module]


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016), its means written as linears with a constant row of 1/D.

    XNNPACK takes those; native_layer_norm, or mean over the last dimension, would split the delegate.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        width = weight.shape[0]
        self.average: torch.Tensor
        self.epsilon: torch.Tensor
        self.weight: torch.Tensor
        self.bias: torch.Tensor
        self.register_buffer("average", torch.full((1, width), 1.0 / width))
        self.register_buffer("epsilon", torch.tensor([epsilon]))
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [..., D] → the same shape."""
        centred = x - nn.functional.linear(x, self.average)
        variance = nn.functional.linear(centred * centred, self.average, self.epsilon)
        return centred * torch.rsqrt(variance) * self.weight + self.bias
