"""A transformer layer from parts: residual branches with their norms, attention, feed-forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from device_runtime.errors import BundleError
from export.adapters import AdaptedLinear
from export.attention import Attention, Context
from export.norms import Tensors


class FeedForward(nn.Module):
    """down(activation(up(x))), or gated: down(activation(gate(x)) ⊙ up(x)) (Shazeer 2020, 2002.05202)."""

    def __init__(
        self, up: AdaptedLinear, down: AdaptedLinear, activation: nn.Module, gate: AdaptedLinear | None = None
    ) -> None:
        super().__init__()
        self.up, self.down, self.gate, self.activation = up, down, gate, activation

    def forward(self, x: torch.Tensor, batch: int, context: Context, adapter: Tensors) -> torch.Tensor:
        """x float32 [1, N, D] → float32 [1, N, D]."""
        inner = self.up(x, adapter)
        if self.gate is None:
            inner = self.activation(inner)
        else:
            inner = self.activation(self.gate(x, adapter)) * inner
        out: torch.Tensor = self.down(inner, adapter)
        return out


class Residual(nn.Module):
    """x → outside(x + after(inside(before(x)))); each of the three norms may be absent.

    before: "pre-norm" families; outside: "post-norm" families; before and after: Gemma's sandwich.
    """

    def __init__(
        self,
        inside: Attention | FeedForward,
        before: nn.Module | None = None,
        after: nn.Module | None = None,
        outside: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.inside, self.before, self.after, self.outside = inside, before, after, outside

    def forward(self, x: torch.Tensor, batch: int, context: Context, adapter: Tensors) -> torch.Tensor:
        """x float32 [1, N, D] → float32 [1, N, D]."""
        branch = x if self.before is None else self.before(x, adapter)
        branch = self.inside(branch, batch, context, adapter)
        x = x + (branch if self.after is None else self.after(branch, adapter))
        out: torch.Tensor = x if self.outside is None else self.outside(x, adapter)
        return out


class Block(nn.Module):
    """One transformer layer: its residual branches in order."""

    def __init__(self, branches: Sequence[Residual]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, hidden: torch.Tensor, context: Context, adapter: Tensors) -> torch.Tensor:
        """hidden float32 [B,T,D], what `embed` made of the batch, the adapter's tensors → hidden [B,T,D]."""
        batch, _, width = hidden.shape
        x = hidden.view(1, -1, width)
        for branch in self.branches:
            x = branch(x, batch, context, adapter)
        return x.view(batch, -1, width)


class Final(nn.Module):
    """What stands after the last block (a norm, a projection), with a block's signature."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, hidden: torch.Tensor, context: Context, adapter: Tensors) -> torch.Tensor:
        """hidden float32 [B,T,D] → float32 [B,T,D]."""
        for part in self.parts:
            hidden = part(hidden)
        return hidden


class FrozenLinear(nn.Module):
    """x Wᵀ + b at a place that is never trained."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight: torch.Tensor
        self.bias: torch.Tensor | None
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [.., in] → float32 [.., out]."""
        return nn.functional.linear(x, self.weight, self.bias)


class GeluTanh(nn.Module):
    """GELU's tanh approximation (Hendrycks and Gimpel 2016), written out: XNNPACK's own gelu is exact."""

    def __init__(self) -> None:
        super().__init__()
        self.cubic: torch.Tensor
        self.slope: torch.Tensor
        self.one_half: torch.Tensor
        self.register_buffer("cubic", torch.tensor([0.044715]))
        self.register_buffer("slope", torch.tensor([(2.0 / torch.pi) ** 0.5]))
        self.register_buffer("one_half", torch.tensor([0.5]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Elementwise."""
        inner = (x + x * x * x * self.cubic) * self.slope
        return (x + x * torch.tanh(inner)) * self.one_half


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_new": GeluTanh,
    "gelu_pytorch_tanh": GeluTanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


def activation(name: str) -> nn.Module:
    """The activation of a Hugging Face name.

    Raises:
        BundleError: it is none of these.
    """
    if name not in ACTIVATIONS:
        raise BundleError(
            f"activation {name!r} is not supported; supported: {', '.join(sorted(ACTIVATIONS))}"
        )
    return ACTIVATIONS[name]()
