"""LoRA (Hu et al. 2021, arXiv 2106.09685): y = W x + b + (lora_alpha / r) B A x; A and B are inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from export.adapters import AdaptedLinear, Adapter, product, stacked
from export.norms import Tensors


@dataclass(frozen=True)
class Lora(Adapter):
    """The adapter kind "lora", with PEFT's names for its fields.

    Args:
        r: rank.
        lora_alpha: the update is scaled by lora_alpha / r.
    """

    r: int = 8
    lora_alpha: float = 16.0
    pairs: ClassVar[bool] = True

    def linear(
        self, path: str, weight: torch.Tensor, bias: torch.Tensor | None, rows: slice | None = None
    ) -> AdaptedLinear:
        """The frozen linear module at `path`, with a LoRA where it is one of the target modules."""
        if self.targets(path):
            return LoraLinear(path, weight, bias, rows, self.r, self.lora_alpha / self.r)
        return AdaptedLinear(weight, bias, rows)


class LoraLinear(AdaptedLinear):
    """A frozen linear module plus the low-rank update whose factors come as inputs."""

    def __init__(
        self,
        path: str,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        rows: slice | None,
        r: int,
        scaling: float,
    ) -> None:
        super().__init__(weight, bias, rows)
        out_features, in_features = weight.shape
        self.name_a = f"{path}.lora_A.weight"
        self.name_b = f"{path}.lora_B.weight"
        self.rows = rows
        self.shape_a, self.shape_b = (r, in_features), (out_features, r)
        self.adapter_shapes = {self.name_a: self.shape_a, self.name_b: self.shape_b}
        self.scaling: torch.Tensor
        self.register_buffer("scaling", torch.tensor([scaling]))

    def forward(self, x: torch.Tensor, adapter: Tensors) -> torch.Tensor:
        """x float32 [1, N, in] → float32 [1, N, out]."""
        b = stacked(adapter[self.name_b], self.shape_b)
        if self.rows is not None:
            b = b[:, self.rows]
        return self.frozen(x) + product(self.low(x, adapter) * self.scaling, b)

    def low(self, x: torch.Tensor, adapter: Tensors) -> torch.Tensor:
        """A x: float32 [1, N, in] → float32 [1, N, r]."""
        return product(x, stacked(adapter[self.name_a], self.shape_a))

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """PEFT's start: B is zero, A is Kaiming-uniform with a = sqrt(5), i.e. uniform in ±1/sqrt(fan_in)."""
        if name == self.name_b:
            return np.zeros(shape, np.float32)
        bound = 1.0 / math.sqrt(shape[1])
        return rng.uniform(-bound, bound, shape).astype(np.float32)
