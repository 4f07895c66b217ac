"""LoRA-FA (Zhang et al. 2023, arXiv 2308.03303): LoRA whose A stays at its random start; only B is trained.

Half the parameters or fewer, so a direction of the same count of queries covers B better; and A x does not
depend on the direction. A is a constant of the program, and follows from the manifest's seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from device_runtime.lora_fa import frozen_factor
from export.adapters import AdaptedLinear
from export.adapters.lora import Lora, LoraLinear
from export.norms import Tensors


@dataclass(frozen=True)
class LoraFA(Lora):
    """The adapter kind "lora_fa".

    Args:
        seed: of the frozen factors.
    """

    seed: int = 0

    def linear(
        self, path: str, weight: torch.Tensor, bias: torch.Tensor | None, rows: slice | None = None
    ) -> AdaptedLinear:
        """The frozen linear module at `path`, with a B to train where it is one of the target modules."""
        if self.targets(path):
            return LoraFALinear(path, weight, bias, rows, self.r, self.lora_alpha / self.r, self.seed)
        return AdaptedLinear(weight, bias, rows)


class LoraFALinear(LoraLinear):
    """A frozen linear module plus a low-rank update of which B comes as an input."""

    def __init__(
        self,
        path: str,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        rows: slice | None,
        r: int,
        scaling: float,
        seed: int,
    ) -> None:
        super().__init__(path, weight, bias, rows, r, scaling)
        self.adapter_shapes = {self.name_b: self.shape_b}
        self.factor: torch.Tensor
        self.register_buffer("factor", torch.from_numpy(frozen_factor(seed, self.name_a, self.shape_a)))

    def low(self, x: torch.Tensor, adapter: Tensors) -> torch.Tensor:
        """A x: float32 [1, N, in] → float32 [1, N, r]."""
        return nn.functional.linear(x, self.factor)
