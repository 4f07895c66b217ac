"""Projected gradients of a program beside autograd's directional derivatives of the torch model."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from export.model import Model
from tests.export.chain import Chain


@dataclasses.dataclass
class ArrayBatch:
    """What the model reads of a batch."""

    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]


def relative_error(
    chain: Chain, model: Model, adapter: torch.Tensor, batch: tuple[torch.Tensor, ...], epsilon: float
) -> float:
    """‖measured − wanted‖ / ‖wanted‖ over 16 directions of ±1.

    measured: (L(θ + εz) − L(θ − εz)) / 2ε by the program, mean loss; wanted: zᵀ∇L by autograd.
    """
    ids, mask, labels = batch
    model.load_adapter(adapter.numpy())
    ones = np.ones(len(labels), np.float32)
    _, gradient = model.gradient(ArrayBatch(ids.numpy(), mask.numpy(), labels.numpy(), ones))
    measured, wanted = [], []
    for seed in range(16):
        generator = torch.Generator().manual_seed(1000 + seed)
        z = torch.randint(0, 2, adapter.shape, generator=generator) * 2.0 - 1.0
        ends = (adapter + epsilon * z, adapter - epsilon * z)
        up, down = (chain.run(end, ids, mask, labels)[0].double() for end in ends)
        measured.append(float((up - down).mean() / (2 * epsilon)))
        wanted.append(float(gradient.astype(np.float64) @ z.double().numpy()))
    return float(np.linalg.norm(np.subtract(measured, wanted)) / np.linalg.norm(wanted))
