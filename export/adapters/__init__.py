"""Adapter kinds: what is trained, and how it enters a frozen module. One file a kind.

Beside what a kind trains, the task's head is trained with every one of them. What lies outside the numbered
blocks (embeddings, a final norm, a language model's head) stays frozen with every one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from export.norms import LayerNorm, RMSNorm, Tensors

ROOT = "base_model.model."  # what PEFT puts before every module's name


class Trained(nn.Module):
    """A module that reads adapter tensors.

    Attributes:
        adapter_shapes: name → shape of the tensors that it reads from its `adapter` argument.
    """

    adapter_shapes: dict[str, tuple[int, ...]]

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """The starting values of one of its adapter tensors; a frozen module has none."""
        raise KeyError(name)


class AdaptedLinear(Trained):
    """A frozen linear module; kinds that train something at this place derive from it.

    Args:
        weight: float32 [out, in].
        bias: float32 [out], or None.
        rows: only these outputs, where one matrix holds several projections; None for all.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, rows: slice | None = None) -> None:
        super().__init__()
        self.weight: torch.Tensor
        self.bias: torch.Tensor | None
        self.adapter_shapes = {}
        self.register_buffer("weight", weight if rows is None else weight[rows].clone())
        self.register_buffer("bias", bias if rows is None or bias is None else bias[rows].clone())

    def frozen(self, x: torch.Tensor) -> torch.Tensor:
        """x Wᵀ + b: float32 [1, N, in] → float32 [1, N, out]."""
        return nn.functional.linear(x, self.weight, self.bias)

    def forward(self, x: torch.Tensor, adapter: Tensors) -> torch.Tensor:
        """x float32 [1, N, in] → float32 [1, N, out]."""
        return self.frozen(x)


@dataclass(frozen=True)
class Adapter:
    """What a family asks of an adapter kind; as it stands, the kind "head": only the task's head is trained.

    Args:
        target_modules: the linear modules that the kind changes: a module whose name is one of these or ends
            in a dot and one of these, as in PEFT. Kinds that change all or none leave it empty.
    """

    target_modules: tuple[str, ...] = ()
    # Whether its tensors may come as [2, *shape], one for each half of the rows; see bundle.proto's pair_k.
    pairs: ClassVar[bool] = False

    def targets(self, path: str) -> bool:
        """Whether the linear module at `path`, PEFT's prefix included, is one of the target modules."""
        return any(path.endswith(f".{name}") for name in self.target_modules)

    def linear(
        self, path: str, weight: torch.Tensor, bias: torch.Tensor | None, rows: slice | None = None
    ) -> AdaptedLinear:
        """The linear module at `path`, or `rows` of its outputs: frozen, or frozen and adapted."""
        return AdaptedLinear(weight, bias, rows)

    def layer_norm(
        self, path: str, weight: torch.Tensor, bias: torch.Tensor | None, epsilon: float
    ) -> LayerNorm:
        """The layer normalisation that stands at `path`."""
        return LayerNorm(weight, bias, epsilon)

    def rms_norm(self, path: str, weight: torch.Tensor, epsilon: float, offset: float) -> RMSNorm:
        """The root-mean-square normalisation that stands at `path`, its weight plus `offset`."""
        return RMSNorm(weight + offset, epsilon)

    def block(self, index: int, make: Callable[[], nn.Module]) -> nn.Module:
        """The model's block of that number, and in it what belongs to no module of the source."""
        return make()


def stacked(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """An adapter tensor of that shape as [1, *shape]; one for both signs, [2, *shape], as it is."""
    return tensor.view(-1, *shape) if tensor.dim() == len(shape) else tensor


def product(x: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """x Wᵀ with a matrix of the adapter: float32 [1, N, in], [S, out, in] → float32 [1, N, out].

    Of S matrices each belongs to N / S rows. It is bmm, not linear: XNNPACK takes a linear only with a
    constant weight, but bmm with two inputs. (Without the flat view torch cannot tell N / S from T.)
    """
    copies, width, depth = matrices.shape
    rows = x if copies == 1 else x.view(-1).view(copies, -1, depth)
    found = torch.bmm(rows, matrices.permute(0, 2, 1))
    return found if copies == 1 else found.view(1, -1, width)


def plus(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """x + b with a vector of the adapter: float32 [1, N, out], [out] or [S, out] → float32 [1, N, out]."""
    if bias.dim() == 1:
        return x + bias
    copies, width = bias.shape
    return (x.view(-1).view(copies, -1, width) + bias.view(copies, 1, width)).view(1, -1, width)


def in_block(path: str) -> bool:
    """Whether a module lies in a numbered block, where kinds that train a model's own parameters do so."""
    return any(part.isdigit() for part in path.split("."))
