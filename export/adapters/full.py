"""Full parameters: the weights and biases of the blocks' linear modules and norms are inputs.

What lies outside the numbered blocks stays frozen, embeddings above all. The weights are no part of the
program any more: they are the adapter, so a device downloads them with it, and they are never quantised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from export.adapters import AdaptedLinear, Adapter, Trained, in_block
from export.norms import LayerNorm, RMSNorm, Tensors


@dataclass(frozen=True)
class Full(Adapter):
    """The adapter kind "full"."""

    def linear(
        self, path: str, weight: torch.Tensor, bias: torch.Tensor | None, rows: slice | None = None
    ) -> AdaptedLinear:
        """The linear module at `path`, its weight and bias inputs."""
        return FullLinear(path, weight, bias, rows) if in_block(path) else AdaptedLinear(weight, bias, rows)

    def layer_norm(
        self, path: str, weight: torch.Tensor, bias: torch.Tensor | None, epsilon: float
    ) -> LayerNorm:
        """The layer normalisation at `path`, its weight and bias inputs."""
        return (
            FullLayerNorm(path, weight, bias, epsilon) if in_block(path) else LayerNorm(weight, bias, epsilon)
        )

    def rms_norm(self, path: str, weight: torch.Tensor, epsilon: float, offset: float) -> RMSNorm:
        """The root-mean-square normalisation at `path`, its weight (without `offset`) an input."""
        if in_block(path):
            return FullRMSNorm(path, weight, epsilon, offset)
        return RMSNorm(weight + offset, epsilon)


class Parameters(Trained):
    """A module whose own parameters are inputs; they start as the frozen model's.

    Args:
        path: PEFT's prefix and the module's Hugging Face name.
        weight, bias: the frozen model's; None for no bias.
    """

    start: dict[str, torch.Tensor]

    def read(self, path: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Notes the tensors; called once the module is made."""
        self.weight_name, self.bias_name = f"{path}.weight", f"{path}.bias" if bias is not None else ""
        # No buffers: as constants they would be a second copy of the weights in the program.
        self.start = {self.weight_name: weight}
        if bias is not None:
            self.start[self.bias_name] = bias
        self.adapter_shapes = {name: tuple(tensor.shape) for name, tensor in self.start.items()}

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """The frozen model's values."""
        return np.asarray(self.start[name].numpy(), np.float32)


class FullLinear(Parameters, AdaptedLinear):
    """x Wᵀ + b; W and b come as inputs."""

    def __init__(
        self, path: str, weight: torch.Tensor, bias: torch.Tensor | None, rows: slice | None
    ) -> None:
        nn.Module.__init__(self)  # not AdaptedLinear's, which keeps the weight as a constant
        self.rows = rows
        self.read(path, weight, bias)

    def forward(self, x: torch.Tensor, adapter: Tensors) -> torch.Tensor:
        """x float32 [1, N, in] → float32 [1, N, out]."""
        rows = self.rows or slice(None)
        weight = adapter[self.weight_name]
        weight = weight if self.rows is None else weight[rows]
        # bmm, not linear: XNNPACK takes a linear only with a constant weight, but bmm with two inputs.
        product = torch.bmm(x, weight.view(1, *weight.shape).permute(0, 2, 1))
        if not self.bias_name:
            return product
        bias = adapter[self.bias_name]
        return product + (bias if self.rows is None else bias[rows])


class FullLayerNorm(Parameters, LayerNorm):
    """A layer normalisation whose weight and bias come as inputs."""

    def __init__(self, path: str, weight: torch.Tensor, bias: torch.Tensor | None, epsilon: float) -> None:
        LayerNorm.__init__(self, weight, None, epsilon)
        del self.weight
        self.read(path, weight, bias)

    def forward(self, x: torch.Tensor, adapter: Tensors | None = None) -> torch.Tensor:
        """x float32 [..., D] → the same shape."""
        assert adapter is not None, f"{self.weight_name} lies in a block, which gives it its adapter tensors"
        bias = adapter[self.bias_name] if self.bias_name else None
        return self.scaled(x, adapter[self.weight_name], bias)


class FullRMSNorm(Parameters, RMSNorm):
    """A root-mean-square normalisation whose weight comes as an input, `offset` added to it."""

    def __init__(self, path: str, weight: torch.Tensor, epsilon: float, offset: float) -> None:
        RMSNorm.__init__(self, weight, epsilon)
        del self.weight
        self.offset: torch.Tensor | None
        self.register_buffer("offset", torch.tensor([offset]) if offset else None)
        self.read(path, weight, None)

    def forward(self, x: torch.Tensor, adapter: Tensors | None = None) -> torch.Tensor:
        """x float32 [..., D] → the same shape."""
        assert adapter is not None, f"{self.weight_name} lies in a block, which gives it its adapter tensors"
        weight = adapter[self.weight_name]
        return self.scaled(x, weight if self.offset is None else weight + self.offset)
