"""Prompt and label words: the language model's logits of one word a class at one token; cross-entropy, nats.

Schick and Schütze 2020 (arXiv 2001.07676), Gao et al. 2020 (arXiv 2012.15723); the tasks of MeZO (Malladi et
al. 2023, arXiv 2305.17333). Only the label words' rows of the language head and one token's hidden state are
computed with. The head is frozen: it owns no adapter tensors.
"""

from __future__ import annotations

import torch

from device_runtime.errors import BundleError
from export.tasks import Task, cross_entropy
from export.tasks.language_head import LanguageHead
from export.tasks.pooling import Pooling


class LabelWords(Task):
    """The program's `head`.

    Args:
        language_head: of the source model, over the label words alone, one a class.
        pooling, offset_tokens: which token's hidden state predicts the word, see Pooling.
        hidden_size: D.

    Raises:
        BundleError: fewer than two words.
    """

    def __init__(
        self,
        language_head: LanguageHead,
        pooling: str,
        offset_tokens: int,
        hidden_size: int,
    ) -> None:
        super().__init__()
        if language_head.weight.shape[0] < 2:
            raise BundleError("label words need at least two words of the model's vocabulary")
        self.pooling = Pooling(pooling, offset_tokens)
        self.words = language_head
        self.hidden_size = hidden_size

    def forward(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        adapter: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """float32 [B,T,D], float32 [B,T], int64 [B] → float32: loss [B], count [B], logits [B,C]."""
        batch = hidden.shape[0]
        read = self.pooling(hidden, attention_mask).view(batch, self.hidden_size)
        logits = self.words(read)
        return cross_entropy(logits, labels), torch.ones(batch), logits
