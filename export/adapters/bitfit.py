"""BitFit (Ben Zaken et al. 2022, arXiv 2106.10199): the biases of the blocks' linear modules and norms.

A module without a bias gets none: a model whose blocks have no biases cannot be trained in this way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from export.adapters import AdaptedLinear, Adapter, Trained, in_block
from export.norms import LayerNorm, Tensors


@dataclass(frozen=True)
class BitFit(Adapter):
    """The adapter kind "bitfit"."""

    def linear(
        self, path: str, weight: torch.Tensor, bias: torch.Tensor | None, rows: slice | None = None
    ) -> AdaptedLinear:
        """The linear module at `path`, its bias an input where it has one."""
        if bias is None or not in_block(path):
            return AdaptedLinear(weight, bias, rows)
        return BiasLinear(f"{path}.bias", weight, bias, rows)

    def layer_norm(
        self, path: str, weight: torch.Tensor, bias: torch.Tensor | None, epsilon: float
    ) -> LayerNorm:
        """The layer normalisation at `path`, its bias an input where it has one."""
        if bias is None or not in_block(path):
            return LayerNorm(weight, bias, epsilon)
        return BiasLayerNorm(f"{path}.bias", weight, bias, epsilon)


class BiasLinear(AdaptedLinear):
    """x Wᵀ + b with a frozen W; b comes as an input and starts as the frozen model's."""

    def __init__(self, name: str, weight: torch.Tensor, bias: torch.Tensor, rows: slice | None) -> None:
        super().__init__(weight, None, rows)
        self.name, self.rows, self.start = name, rows, bias
        self.adapter_shapes = {name: tuple(bias.shape)}

    def forward(self, x: torch.Tensor, adapter: Tensors) -> torch.Tensor:
        """x float32 [1, N, in] → float32 [1, N, out]."""
        bias = adapter[self.name]
        return self.frozen(x) + (bias if self.rows is None else bias[self.rows])

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """The frozen model's bias."""
        return np.asarray(self.start.numpy(), np.float32)


class BiasLayerNorm(LayerNorm, Trained):
    """A layer normalisation with a frozen weight; its bias comes as an input."""

    def __init__(self, name: str, weight: torch.Tensor, bias: torch.Tensor, epsilon: float) -> None:
        super().__init__(weight, None, epsilon)
        self.name, self.start = name, bias
        self.adapter_shapes = {name: tuple(bias.shape)}

    def forward(self, x: torch.Tensor, adapter: Tensors | None = None) -> torch.Tensor:
        """x float32 [..., D] → the same shape."""
        assert adapter is not None, f"{self.name} lies in a block, which gives it its adapter tensors"
        return self.scaled(x, self.weight, adapter[self.name])

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """The frozen model's bias."""
        return np.asarray(self.start.numpy(), np.float32)
