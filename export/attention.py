"""Attention on (batch·heads, T, d) tensors: multi-head, grouped-query, rotary, windowed, soft-capped.

One module for every family; what differs is its shape, its mask and which of the optional parts it has. T
may vary between calls, and XNNPACK takes a view only if it infers one size (-1) and no other size depends on
T; a 4-D matmul would leave expand_copy outside the delegate. So the queries of one key/value head lie one
after the other, G·T of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from export.adapters import AdaptedLinear
from export.norms import Tensors

if TYPE_CHECKING:
    from export.adapters.prefix import Prefix

Context = dict[str, torch.Tensor]


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of an attention, and the names of what it reads from the context.

    Attributes:
        heads, kv_heads, head_size: H, KV (H is a multiple of it), d.
        scale: of the scores, usually 1 / sqrt(d).
        mask: additive, float32, broadcast to [B·KV, G·T, T] with G = H / KV.
        cos, sin: rotary tables float32 [1,T,1,d]; "" for none.
        rotary_size: how many of the d places are rotated; None for all.
        softcap: scores become softcap · tanh(scores / softcap); None for as they are.
    """

    heads: int
    kv_heads: int
    head_size: int
    scale: float
    mask: str = "mask"
    cos: str = ""
    sin: str = ""
    rotary_size: int | None = None
    softcap: float | None = None


class Attention(nn.Module):
    """softmax(scale · Q Kᵀ + mask) V, with its four projections (Vaswani et al. 2017, arXiv 1706.03762).

    Args:
        shape: see there.
        query, key, value, output: the projections.
        query_norm, key_norm: over each head, before the rotation (Qwen3, Gemma 3).

    Attributes:
        prefix: keys and values before the tokens' own, which no mask hides; None for none.
    """

    prefix: Prefix | None

    def __init__(
        self,
        shape: AttentionShape,
        query: AdaptedLinear,
        key: AdaptedLinear,
        value: AdaptedLinear,
        output: AdaptedLinear,
        query_norm: nn.Module | None = None,
        key_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.query, self.key, self.value, self.output = query, key, value, output
        self.query_norm, self.key_norm, self.prefix = query_norm, key_norm, None
        self.scale: torch.Tensor
        self.half_turn: torch.Tensor
        self.cap: torch.Tensor
        self.uncap: torch.Tensor
        self.register_buffer("scale", torch.tensor([shape.scale]))
        self.register_buffer("half_turn", _half_turn(shape) if shape.cos else None)
        if shape.softcap is not None:
            self.register_buffer("cap", torch.tensor([shape.softcap]))
            self.register_buffer("uncap", torch.tensor([1.0 / shape.softcap]))

    def forward(self, x: torch.Tensor, batch: int, context: Context, adapter: Tensors) -> torch.Tensor:
        """x float32 [1, B·T, D] → float32 [1, B·T, D]."""
        s = self.shape
        group = s.heads // s.kv_heads
        query = self._split(self.query(x, adapter), s.heads, self.query_norm, context, batch, adapter)
        query = query * self.scale
        key = self._split(self.key(x, adapter), s.kv_heads, self.key_norm, context, batch, adapter)
        value = self.value(x, adapter).view(batch, -1, s.kv_heads, s.head_size)
        if group > 1:
            query = query.view(batch, -1, s.kv_heads, group, s.head_size).permute(0, 2, 3, 1, 4)
        else:
            query = query.permute(0, 2, 1, 3)
        query = query.contiguous().view(batch * s.kv_heads, -1, s.head_size)
        key = key.permute(0, 2, 3, 1).contiguous().view(batch * s.kv_heads, s.head_size, -1)
        value = value.permute(0, 2, 1, 3).contiguous().view(batch * s.kv_heads, -1, s.head_size)
        scores = self.scores(query, key, context, adapter) + context[s.mask]
        if self.prefix is not None:
            prefix_scores = self.capped(torch.bmm(query, self.prefix.keys(adapter, batch)))
            scores = torch.cat([prefix_scores, scores], -1)
            value = torch.cat([self.prefix.values(adapter, batch), value], 1)
        mixed = torch.bmm(torch.softmax(scores, -1), value)
        if group > 1:
            mixed = mixed.view(batch, s.kv_heads, group, -1, s.head_size).permute(0, 3, 1, 2, 4)
        else:
            mixed = mixed.view(batch, s.kv_heads, -1, s.head_size).permute(0, 2, 1, 3)
        out: torch.Tensor = self.output(mixed.contiguous().view(1, -1, s.heads * s.head_size), adapter)
        return out

    def scores(
        self, query: torch.Tensor, key: torch.Tensor, context: Context, adapter: Tensors
    ) -> torch.Tensor:
        """query [B·KV, G·T, d], key [B·KV, d, T] → [B·KV, G·T, T], before the mask."""
        return self.capped(torch.bmm(query, key))

    def capped(self, scores: torch.Tensor) -> torch.Tensor:
        """Elementwise: the soft cap, where the family has one."""
        if self.shape.softcap is None:
            return scores
        return torch.tanh(scores * self.uncap) * self.cap

    def _split(
        self,
        x: torch.Tensor,
        heads: int,
        norm: nn.Module | None,
        context: Context,
        batch: int,
        adapter: Tensors,
    ) -> torch.Tensor:
        """[1, B·T, heads·d] → [B, T, heads, d], normalised and rotated where the family does that."""
        x = x.view(batch, -1, heads, self.shape.head_size)
        if norm is not None:
            x = norm(x, adapter)
        if not self.shape.cos:
            return x
        # The half turn as a product with a constant: slices of a dynamic length would not be delegated.
        turned = nn.functional.linear(x, self.half_turn)
        return x * context[self.shape.cos] + turned * context[self.shape.sin]


def _half_turn(shape: AttentionShape) -> torch.Tensor:
    """The matrix of (a, b) → (−b, a) on the halves of the rotated places, float32 [d, d]: exact, 0 and ±1."""
    half = (shape.rotary_size or shape.head_size) // 2
    matrix = torch.zeros(shape.head_size, shape.head_size)
    matrix[:half, half : 2 * half] = -torch.eye(half)
    matrix[half : 2 * half, :half] = torch.eye(half)
    return matrix
