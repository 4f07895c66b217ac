"""From the hidden states of a batch of texts to one of each: products with masks, which XNNPACK takes.

Real tokens stand together in a row, with padding on either side of them, so a place is counted from the
first or from the last real token and needs no index: cumulated sums of the attention mask say which it is.
"""

from __future__ import annotations

import torch
from torch import nn

from device_runtime.errors import BundleError

POOLINGS = ("mean", "cls", "last")


class Pooling(nn.Module):
    """The mean over a row's real tokens, or the hidden state of one of them, as it is.

    Args:
        kind: "mean"; "cls", counted from the first real token; "last", counted from the last.
        offset_tokens: how many real tokens lie between that end and the one that is meant; 0 for the end.

    Raises:
        BundleError: no such kind.
    """

    def __init__(self, kind: str, offset_tokens: int = 0) -> None:
        super().__init__()
        if kind not in POOLINGS:
            raise BundleError(f"pooling {kind!r} is unknown; choose one of {', '.join(POOLINGS)}")
        self.kind = kind
        self.number: torch.Tensor
        self.one: torch.Tensor
        self.register_buffer("number", torch.tensor([float(offset_tokens + 1)]))
        self.register_buffer("one", torch.tensor([1.0]))

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """hidden float32 [B,T,D], attention_mask float32 [B,T] → [B,1,D]; zeros for a row without tokens."""
        batch = hidden.shape[0]
        if self.kind == "mean":
            # A padding row of the batch has no real token: its mean is 0, not NaN.
            tokens = attention_mask.sum(1).clamp(min=1.0).view(batch, 1, 1)
            return torch.bmm(attention_mask.view(batch, 1, -1), hidden) / tokens
        return torch.bmm(self._place(attention_mask).view(batch, 1, -1), hidden)

    def _place(self, real: torch.Tensor) -> torch.Tensor:
        """real float32 [B,T] → 1 at the one token, 0 elsewhere; whole numbers, so exact."""
        counted = torch.cumsum(real, 1)  # 1 at the first real token, 2 at the second …
        if self.kind == "last":
            counted = real.sum(1, keepdim=True) - counted + real
        return torch.relu(self.one - (counted - self.number).abs()) * real
