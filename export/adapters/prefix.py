"""Prefix tuning (Li and Liang 2021, arXiv 2101.00190): P trained keys and values before each attention's own.

attention(q) = softmax([scale · q Kp ; scale · q K + mask]) [Vp ; V]. Every token sees the whole prefix. The
prefix has no place: tokens keep their own positions, and rotary positions do not turn its keys, nor are they
normalised. (PEFT's PREFIX_TUNING moves every token by P places, so it is another function where positions are
learned or rotary.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from export.adapters import ROOT, Adapter, Trained
from export.attention import Attention
from export.norms import Tensors


@dataclass(frozen=True)
class PrefixTokens(Adapter):
    """The adapter kind "prefix".

    Args:
        tokens: P, how many keys and values a layer gets.
    """

    tokens: int = 8

    def block(self, index: int, make: Callable[[], nn.Module]) -> nn.Module:
        """The model's block of that number, with a prefix in its attention."""
        block = make()
        for part in block.modules():
            if isinstance(part, Attention):
                shape = part.shape
                part.prefix = Prefix(f"{ROOT}blocks.{index}", self.tokens, shape.kv_heads, shape.head_size)
        return block


class Prefix(Trained):
    """Keys and values as inputs, float32 [P, KV·d] each, the same for every example of a batch."""

    def __init__(self, path: str, tokens: int, kv_heads: int, head_size: int) -> None:
        super().__init__()
        self.key_name, self.value_name = f"{path}.prefix_key", f"{path}.prefix_value"
        self.by_head = (tokens, kv_heads, head_size)
        shape = (tokens, kv_heads * head_size)
        self.adapter_shapes = {self.key_name: shape, self.value_name: shape}
        self.one: torch.Tensor
        self.register_buffer("one", torch.ones(1))

    def keys(self, adapter: Tensors, batch: int) -> torch.Tensor:
        """float32 [B·KV, d, P]."""
        return _repeated(adapter[self.key_name].view(self.by_head).permute(1, 2, 0), batch, self.one)

    def values(self, adapter: Tensors, batch: int) -> torch.Tensor:
        """float32 [B·KV, P, d]."""
        return _repeated(adapter[self.value_name].view(self.by_head).permute(1, 0, 2), batch, self.one)

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Normal with deviation 0.02, as transformers starts new parameters."""
        return rng.normal(0.0, 0.02, shape).astype(np.float32)


def _repeated(x: torch.Tensor, times: int, one: torch.Tensor) -> torch.Tensor:
    """x that many times along its first axis, by doubling: XNNPACK takes a cat of few tensors, no expand.

    It takes none of a tensor with itself either, so one of the two is a product with 1, float32 [1].
    """
    if times == 1:
        return x.contiguous()
    half = _repeated(x, times // 2, one)
    return torch.cat([half, half * one, x] if times % 2 else [half, half * one])
