"""Serial bottleneck adapters (Houlsby et al. 2019, arXiv 1902.00751): h + U gelu(D h + d) + u.

They stand straight after the last projection of the attention and of the feed-forward, before the residual
add, as in ChainFed and FwdLLM: a layer has two. D, d, U and u are inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from device_runtime.errors import BundleError
from export.adapters import AdaptedLinear, Adapter, plus, product, stacked
from export.norms import Tensors


@dataclass(frozen=True)
class Bottleneck(Adapter):
    """The adapter kind "bottleneck"; its target modules are the projections that it stands after.

    Args:
        size: m, the width between the two matrices.
    """

    size: int = 16
    pairs: ClassVar[bool] = True

    def linear(
        self, path: str, weight: torch.Tensor, bias: torch.Tensor | None, rows: slice | None = None
    ) -> AdaptedLinear:
        """The frozen linear module at `path`, with a bottleneck after it where it is a target module.

        Raises:
            BundleError: the target is one of several projections in one matrix.
        """
        if not self.targets(path):
            return AdaptedLinear(weight, bias, rows)
        if rows is not None:
            raise BundleError(
                f"--target-modules: {path} holds several projections; "
                "a bottleneck stands after a branch's last projection"
            )
        return BottleneckLinear(path, weight, bias, self.size)


class BottleneckLinear(AdaptedLinear):
    """A frozen linear module and the bottleneck after it, whose tensors come as inputs."""

    def __init__(self, path: str, weight: torch.Tensor, bias: torch.Tensor | None, size: int) -> None:
        super().__init__(weight, bias)
        width = weight.shape[0]
        self.down, self.down_bias = f"{path}.adapter_down.weight", f"{path}.adapter_down.bias"
        self.up, self.up_bias = f"{path}.adapter_up.weight", f"{path}.adapter_up.bias"
        self.adapter_shapes = {
            self.down: (size, width), self.down_bias: (size,), self.up: (width, size), self.up_bias: (width,)
        }  # fmt: skip

    def forward(self, x: torch.Tensor, adapter: Tensors) -> torch.Tensor:
        """x float32 [1, N, in] → float32 [1, N, out]."""
        return self.auxiliary(self.frozen(x), adapter)

    def auxiliary(self, h: torch.Tensor, adapter: Tensors) -> torch.Tensor:
        """The bottleneck alone, without the frozen module: h float32 [1, N, out] → the same shape."""
        low = nn.functional.gelu(plus(self._product(h, adapter, self.down), adapter[self.down_bias]))
        return plus(h + self._product(low, adapter, self.up), adapter[self.up_bias])

    def _product(self, x: torch.Tensor, adapter: Tensors, name: str) -> torch.Tensor:
        return product(x, stacked(adapter[name], self.adapter_shapes[name]))

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """The identity: U, u and d are zero, D is uniform in ±1/sqrt(fan_in)."""
        if name != self.down:
            return np.zeros(shape, np.float32)
        bound = 1.0 / math.sqrt(shape[1])
        return rng.uniform(-bound, bound, shape).astype(np.float32)
