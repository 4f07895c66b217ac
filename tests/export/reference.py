"""The same function by eager transformers and PEFT's LoRA, with pooling and loss written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from device_runtime.bundle import Bundle

CLASSIFIER = "base_model.model.classifier."


def random_adapter(bundle: Bundle, seed: int, deviation: float = 0.2) -> torch.Tensor:
    """Every tensor random and nowhere zero."""
    values = torch.randn(bundle.layout.parameters, generator=torch.Generator().manual_seed(seed)) * deviation
    return values + torch.sign(values) * 1e-3


def ragged_batch(
    bundle: Bundle, tokens: int, seed: int, padding_side: str = "right"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random token ids [B,T] with a different number of real tokens in every row, and random labels."""
    rows = bundle.manifest.chain.batch_examples
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1000, 30000, (rows, tokens), generator=generator)
    mask = torch.zeros(rows, tokens, dtype=torch.int64)
    for row in range(rows):
        length = max(1, tokens - row * tokens // rows)
        mask[row, tokens - length :] = 1 if padding_side == "left" else mask[row, tokens - length :]
        mask[row, :length] = 1 if padding_side == "right" else mask[row, :length]
    ids = torch.where(mask == 1, ids, bundle.manifest.text.pad_id)
    labels = torch.randint(0, len(bundle.class_names), (rows,), generator=generator)
    return ids, mask, labels


def eager(
    bundle: Bundle,
    source: Path,
    adapter: torch.Tensor,
    ids: torch.Tensor,
    mask: torch.Tensor,
    labels: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """→ (loss [B], logits [B,C])."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from transformers import AutoModel

    kind = bundle.manifest.adapter
    config = LoraConfig(r=kind.r, lora_alpha=int(kind.lora_alpha), target_modules=list(kind.target_modules))
    base = AutoModel.from_pretrained(source, attn_implementation="eager")
    encoder: Any = get_peft_model(base, config).eval()
    parts = {t.name: adapter[t.span].reshape(t.shape) for t in bundle.layout.tensors}
    head = {
        name.removeprefix(CLASSIFIER): parts.pop(name) for name in list(parts) if name.startswith(CLASSIFIER)
    }
    outcome = set_peft_model_state_dict(encoder, parts)
    assert not outcome.unexpected_keys
    # "dense" names BERT's pooler too, which no task here reads: PEFT's LoRA there changes nothing.
    assert not [name for name in outcome.missing_keys if "lora" in name and "pooler" not in name]
    with torch.no_grad():
        hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        pooling, rows = bundle.manifest.task.pooling, torch.arange(len(hidden))
        if pooling == "cls":
            pooled = hidden[rows, mask.argmax(1)]
        elif pooling == "last":
            pooled = hidden[rows, mask.cumsum(1).argmax(1)]
        else:
            real = mask[..., None].float()
            pooled = (hidden * real).sum(1) / real.sum(1)
        logits = pooled @ head["weight"].T + head["bias"]
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none"), logits
