"""The head of a task whose targets are tokens: as one method of the program, and over a whole batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from device_runtime.text import NO_TARGET
from export.segments import adapter_shapes
from export.tasks import Task

Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class TokenHead(nn.Module):
    """The task with the program's signature of `head`: (hidden [N,D], targets [N], *adapter tensors).

    Args:
        task: with `head_tokens` N.
        project: what it reads the hidden states through; None for as they are.
    """

    def __init__(self, task: Task, project: nn.Module | None = None) -> None:
        super().__init__()
        self.task, self.project = task, project
        self.shapes = adapter_shapes(task)

    def forward(
        self, hidden: torch.Tensor, targets: torch.Tensor, *adapter: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """→ (loss float32 [N], correct float32 [N])."""
        if self.project is not None:
            hidden = self.project(hidden)
        outputs: tuple[torch.Tensor, torch.Tensor] = self.task(
            hidden, targets, dict(zip(self.shapes, adapter, strict=True))
        )
        return outputs

    def of_batch(
        self, hidden: torch.Tensor, targets: torch.Tensor, adapter: Sequence[torch.Tensor]
    ) -> Results:
        """hidden float32 [B,T,D], targets int64 [B,T] → float32 [B]: loss, count and correct, summed by row.

        As the devices' core does it, N tokens at a time; a graph keeps no logits, they are computed again.
        """
        rows = hidden.shape[0]
        counted = targets != NO_TARGET
        states, wanted = hidden[counted], targets[counted]
        row = counted.nonzero()[:, 0]
        loss = torch.zeros(rows, dtype=hidden.dtype) + 0.0 * hidden.sum()  # differentiable without targets
        correct = torch.zeros(rows, dtype=hidden.dtype)
        for start in range(0, len(wanted), self.task.head_tokens):
            part = slice(start, start + self.task.head_tokens)
            losses, right = checkpoint(self, states[part], wanted[part], *adapter, use_reentrant=False)
            loss = loss.index_add(0, row[part], losses)
            correct = correct.index_add(0, row[part], right)
        return loss, counted.sum(1).to(hidden.dtype), correct
