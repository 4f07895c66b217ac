"""The chain of segments: which blocks lie in which, and each as a module that takes its adapter tensors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from device_runtime.errors import BundleError
from export.tasks import Task


def cut(blocks: int, segments: int | Sequence[int] | None) -> list[range]:
    """Which blocks each segment holds: contiguous, and by K alone of equal cost, longer ones first.

    Every supported family's blocks cost the same within 5 %, counted in FLOPs (a test holds them to that), so
    segments of equal cost are those with equally many blocks.

    Args:
        blocks: number of blocks of the model.
        segments: K, or how many blocks each segment holds; None for one segment a block.

    Raises:
        BundleError: K is not in 1..blocks, or the segments do not hold all blocks.
    """
    if segments is None or isinstance(segments, int):
        wanted = blocks if segments is None else segments
        if not 1 <= wanted <= blocks:
            raise BundleError(f"--segments {wanted}: this model has {blocks} blocks; choose 1 to {blocks}")
        size, longer = divmod(blocks, wanted)
        sizes = [size + (k < longer) for k in range(wanted)]
    else:
        sizes = list(segments)
        if min(sizes, default=0) < 1 or sum(sizes) != blocks:
            given = ",".join(map(str, sizes))
            raise BundleError(
                f"--segments {given}: this model has {blocks} blocks; give segments of 1 or more that hold "
                f"{blocks} together"
            )
    starts = itertools.accumulate(sizes, initial=0)
    return [range(a, b) for a, b in itertools.pairwise(starts)]


def adapter_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name → shape of every adapter tensor that a module reads, in order of name."""
    found: dict[str, tuple[int, ...]] = {}
    for part in module.modules():
        found.update(getattr(part, "adapter_shapes", None) or {})
    return dict(sorted(found.items()))


def initial_value(module: nn.Module, name: str, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The starting values of one adapter tensor, float32 in its shape, from the module that reads it."""
    for part in module.modules():
        owner: Any = part
        shapes = getattr(owner, "adapter_shapes", None) or {}
        if name in shapes:
            return np.asarray(owner.initial(name, shapes[name], rng), np.float32)
    raise KeyError(name)


class Segment(nn.Module):
    """Consecutive blocks with one signature: (hidden, *context, *adapter tensors in order of name) → hidden.

    Args:
        blocks: in order; what stands after the model's last block is one of them.
        context: the names of the tensors that `embed` makes besides the hidden states.
    """

    def __init__(self, blocks: Sequence[nn.Module], context: Sequence[str]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.shapes = adapter_shapes(self.blocks)
        self.context = tuple(context)

    def forward(self, hidden: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        """hidden float32 [B,T,D], the context's tensors, the adapter's → hidden float32 [B,T,D]."""
        split = len(self.context)
        context = dict(zip(self.context, rest[:split], strict=True))
        adapter = dict(zip(self.shapes, rest[split:], strict=True))
        for block in self.blocks:
            hidden = block(hidden, context, adapter)
        return hidden


class Auxiliary(nn.Module):
    """A segment without its frozen part: the hidden states through its adapters alone, one after the other.

    ChainFed (arXiv 2604.06819) takes its global loss through such a branch of the segments not loaded.
    Only adapters between two equal widths have it (adapters/bottleneck.py); another kind is the identity.
    """

    def __init__(self, segment: Segment) -> None:
        super().__init__()
        self.shapes = segment.shapes
        # Not as submodules: what is frozen in them would become part of the program.
        self.parts: list[Any] = [part for part in segment.modules() if hasattr(part, "auxiliary")]

    def forward(self, hidden: torch.Tensor, *adapter: torch.Tensor) -> torch.Tensor:
        """hidden float32 [B,T,D] and the segment's adapter tensors → hidden float32 [B,T,D]."""
        named = dict(zip(self.shapes, adapter, strict=True))
        batch, _, width = hidden.shape
        x = hidden.view(1, -1, width)
        for part in self.parts:
            x = part.auxiliary(x, named)
        return x.view(batch, -1, width)


class Head(nn.Module):
    """The task with the program's signature of `head`: (hidden, attention_mask, labels, *adapter tensors).

    Args:
        task: what is computed.
        project: what it reads the hidden states through; None for as they are.
    """

    def __init__(self, task: Task, project: nn.Module | None = None) -> None:
        super().__init__()
        self.task, self.project = task, project
        self.shapes = adapter_shapes(task)

    def forward(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, *adapter: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """→ (loss float32 [B], count float32 [B], logits float32 [B,C])."""
        if self.project is not None:
            hidden = self.project(hidden)
        outputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = self.task(
            hidden, attention_mask, labels, dict(zip(self.shapes, adapter, strict=True))
        )
        return outputs
