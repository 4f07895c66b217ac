"""The gradient of a batch's loss by a linear head's tensors, in closed form: a forward-only quantity.

With features h_b, weights w_b and probabilities p_b = softmax(W h_b + b), the gradient of sum_b w_b loss_b is
sum_b (w_b p_b - w_b onehot(label_b)) h_b^T by W, and the same without h_b by the bias. So the slope along a
direction in the head alone needs no difference of losses, and one run serves any number of directions.
"""

from __future__ import annotations

import torch
from torch import nn

from export.tasks import Task, linear_logits


class HeadGradient(nn.Module):
    """The program's `head_gradient`: (hidden, attention_mask, weights, targets, *head's adapter tensors).

    Args:
        task: one with a linear head.
        project: what it reads the hidden states through; None for as they are.
        batch_examples: B.
    """

    def __init__(self, task: Task, project: nn.Module | None, batch_examples: int) -> None:
        super().__init__()
        assert task.linear is not None
        self.task, self.project = task, project
        weight, bias = task.linear
        self.names = tuple(sorted((weight, bias)))
        self.weight, self.bias = self.names.index(weight), self.names.index(bias)
        self.ones: torch.Tensor
        self.register_buffer("ones", torch.ones(1, 1, batch_examples))

    def forward(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor,
        weights: torch.Tensor,
        targets: torch.Tensor,
        *adapter: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """float32 [B,T,D], [B,T], w [B,1], w · onehot(label) [B,C], tensors → a gradient each, in order."""
        if self.project is not None:
            hidden = self.project(hidden)
        batch, classes = targets.shape
        features = self.task.features(hidden, attention_mask)
        logits = linear_logits(features, adapter[self.weight], adapter[self.bias])
        residual = torch.softmax(logits, -1) * weights.view(1, batch, 1) - targets.view(1, batch, classes)
        by_weight = torch.bmm(residual.permute(0, 2, 1), features).view(classes, -1)
        # A sum over the batch as a product: XNNPACK leaves a sum over the first of two sizes outside.
        by_bias = torch.bmm(self.ones, residual).view(classes)
        return (by_weight, by_bias) if self.weight < self.bias else (by_bias, by_weight)
