"""Sequence classification: pool the last hidden states, one trained linear layer, cross-entropy in nats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from device_runtime.errors import BundleError
from export.tasks import Task, cross_entropy, linear_logits
from export.tasks.pooling import Pooling

# The names that PEFT gives a classifier listed in modules_to_save.
WEIGHT = "base_model.model.classifier.weight"
BIAS = "base_model.model.classifier.bias"


class SequenceClassification(Task):
    """The program's `head`; its linear layer is part of the adapter.

    Args:
        pooling: "mean" over the real tokens; "cls" or "last", the first or last one's hidden state as it is
            (no pooler).
        classes: C.
        hidden_size: D.
    """

    def __init__(self, pooling: str, classes: int, hidden_size: int) -> None:
        super().__init__()
        if classes < 2:
            raise BundleError(
                "a classification task needs at least two classes; name them with --classes a,b"
            )
        self.pooling = Pooling(pooling)
        self.hidden_size = hidden_size
        self.adapter_shapes: dict[str, tuple[int, ...]] = {WEIGHT: (classes, hidden_size), BIAS: (classes,)}

    linear = (WEIGHT, BIAS)

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Transformers' start of a new head: bias zero, weight normal with deviation 0.02."""
        if name == BIAS:
            return np.zeros(shape, np.float32)
        return rng.normal(0.0, 0.02, shape).astype(np.float32)

    def forward(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        adapter: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """float32 [B,T,D], float32 [B,T], int64 [B] → float32: loss [B], count [B], logits [B,C]."""
        batch = hidden.shape[0]
        logits = linear_logits(self.features(hidden, attention_mask), adapter[WEIGHT], adapter[BIAS])
        logits = logits.view(batch, -1)
        return cross_entropy(logits, labels), torch.ones(batch), logits

    def features(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The pooled texts."""
        pooled: torch.Tensor = self.pooling(hidden, attention_mask)
        return pooled.view(1, hidden.shape[0], self.hidden_size)

    def condensed(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A pooled text is a text of one token: pooling it again, with a mask of 1, changes nothing."""
        return self.pooling(hidden, attention_mask), torch.ones(hidden.shape[0], 1)
