"""Adapter kinds: what is trained, and how it enters a frozen linear module. One file a kind."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn


class AdaptedLinear(nn.Module):
    """A frozen linear module; kinds that train something at this place derive from it.

    Args:
        weight: float32 [out, in].
        bias: float32 [out], or None.
        rows: only these outputs, where one matrix holds several projections; None for all.

    Attributes:
        adapter_shapes: name → shape of the tensors that this module reads from its `adapter` argument.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, rows: slice | None = None) -> None:
        super().__init__()
        self.weight: torch.Tensor
        self.bias: torch.Tensor | None
        self.adapter_shapes: dict[str, tuple[int, ...]] = {}
        self.register_buffer("weight", weight if rows is None else weight[rows].clone())
        self.register_buffer("bias", bias if rows is None or bias is None else bias[rows].clone())

    def forward(self, x: torch.Tensor, adapter: dict[str, torch.Tensor]) -> torch.Tensor:
        """x float32 [1, N, in] → float32 [1, N, out]."""
        return nn.functional.linear(x, self.weight, self.bias)

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """The starting values of one of its adapter tensors; a frozen module has none."""
        raise KeyError(name)


class Adapter(Protocol):
    """What a family asks of an adapter kind."""

    @property
    def kind(self) -> str:
        """The manifest's name of the kind."""

    def linear(
        self, path: str, weight: torch.Tensor, bias: torch.Tensor | None, rows: slice | None = None
    ) -> AdaptedLinear:
        """The module that stands at `path`: frozen, or frozen and adapted; only `rows` of its outputs."""
