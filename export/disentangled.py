"""Disentangled attention (He et al. 2021, arXiv 2006.03654): scores by content, and by relative position.

XNNPACK gathers nothing, so each score's position is picked by a product with a one-hot tensor. It is constant
in i − j alone, and `embed` makes it once for all layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from export.adapters import AdaptedLinear
from export.attention import Attention, AttentionShape, Context
from export.norms import Tensors


class OffsetPick(nn.Module):
    """1 where i − j is the row's offset, else 0: float32 [T(i), offsets, T(j)].

    Args:
        max_tokens: M; the offsets are 1 − M … M − 1.
    """

    def __init__(self, max_tokens: int) -> None:
        super().__init__()
        places = torch.arange(max_tokens, dtype=torch.float32)
        self.query: torch.Tensor
        self.key: torch.Tensor
        self.offsets: torch.Tensor
        self.register_buffer("query", places.view(-1, 1, 1))
        self.register_buffer("key", places.view(1, 1, -1))
        self.register_buffer("offsets", torch.arange(1.0 - max_tokens, max_tokens).view(1, -1, 1))

    def forward(self, real: torch.Tensor) -> torch.Tensor:
        """real float32 [B,T] → float32 [T, 2M−1, T]."""
        tokens = real.shape[1]
        away = (self.query[:tokens] - self.key[:, :, :tokens] - self.offsets).abs()
        return 1.0 - away.clamp(0.0, 1.0)


def relative_rows(max_tokens: int, buckets: int, longest: int, rows: int) -> torch.Tensor:
    """Which row of the relative embeddings each offset 1 − M … M − 1 has, int64 [2M − 1].

    Offsets up to buckets / 2 have a row of their own, larger ones share rows on a logarithmic scale up to
    `longest` (transformers' function is used); without buckets each has its own, up to the table's ends.

    Args:
        max_tokens: M.
        buckets: number of rows to either side; 0 or less for none.
        longest: the largest offset that the buckets tell apart.
        rows: of the table to either side.
    """
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    offsets = torch.arange(1 - max_tokens, max_tokens)
    if buckets > 0 and longest > 0:
        offsets = make_log_bucket_position(offsets, buckets, longest).long()
    return (offsets + rows).clamp(0, 2 * rows - 1)


class DisentangledAttention(Attention):
    """scale · (Q Kᵀ + Q P_kᵀ[i − j] + K P_qᵀ[i − j]), with P projected from an embedding of each offset.

    Args:
        shape, projections: as Attention's.
        relative: float32 [2M − 1, D], the embedding of each offset.
        position_key: gives P_k; None where scores have no content-to-position part.
        position_query: gives P_q; None where they have no position-to-content part.
    """

    def __init__(
        self,
        shape: AttentionShape,
        projections: Sequence[AdaptedLinear],
        relative: torch.Tensor,
        position_key: AdaptedLinear | None,
        position_query: AdaptedLinear | None,
    ) -> None:
        super().__init__(shape, *projections)
        self.relative: torch.Tensor
        self.backwards: torch.Tensor
        self.register_buffer("relative", relative.unsqueeze(0))
        self.register_buffer("backwards", relative.flip(0).unsqueeze(0))
        self.position_key, self.position_query = position_key, position_query

    def scores(
        self, query: torch.Tensor, key: torch.Tensor, context: Context, adapter: Tensors
    ) -> torch.Tensor:
        """query [B·H, T, d] (scaled), key [B·H, d, T] → [B·H, T, T], before the mask."""
        scores, pick = torch.bmm(query, key), context["offsets"]
        if self.position_key is not None:
            by_head = self._by_head(self.position_key, self.relative, adapter)
            scores = scores + self._picked(query, by_head, pick)
        if self.position_query is not None:
            # Seen from the key at j, offset i − j is −(j − i): the one-hot tensor picks from the reverse.
            by_head = self._by_head(self.position_query, self.backwards, adapter) * self.scale
            scores = scores + self._picked(key.permute(0, 2, 1).contiguous(), by_head, pick).permute(0, 2, 1)
        return scores

    def _by_head(self, projection: AdaptedLinear, rows: torch.Tensor, adapter: Tensors) -> torch.Tensor:
        """The offsets' embeddings [1, 2M − 1, D], projected: float32 [H, d, 2M − 1]."""
        s = self.shape
        projected: torch.Tensor = projection(rows, adapter)
        return projected.view(-1, s.heads, s.head_size).permute(1, 2, 0).contiguous()

    def _picked(self, content: torch.Tensor, by_head: torch.Tensor, pick: torch.Tensor) -> torch.Tensor:
        """content [B·H, T(a), d], by_head [H, d, W], pick [T(a), W, T(b)] → [B·H, T(a), T(b)]."""
        heads, size, width = by_head.shape
        batch = content.shape[0] // heads
        content = content.view(batch, heads, -1, size).permute(1, 0, 2, 3).contiguous().view(heads, -1, size)
        every = torch.bmm(content, by_head).view(heads, batch, -1, width)
        rows = every.permute(2, 1, 0, 3).contiguous().view(-1, batch * heads, width)
        return torch.bmm(rows, pick).permute(1, 0, 2).contiguous()
