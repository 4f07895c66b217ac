"""How a LoRA that was trained on prompts with label words is used with transformers and PEFT."""

from __future__ import annotations

from device_runtime.bundle import Bundle

_SNIPPET = '''\
import torch
from peft import PeftModel
from transformers import {auto}, AutoTokenizer

def logits(texts, source, adapter):
    """Scores of {classes}: of the words {words} in {template!r}."""
    model = PeftModel.from_pretrained({auto}.from_pretrained(source), adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(source, truncation_side="{side}")
    before, after, words = {prefix}, {suffix}, {word_ids}
    cut = dict(add_special_tokens=False, truncation=True, max_length={room})
    rows = [before + tokenizer({lead!r} + text, **cut)["input_ids"] + after for text in texts]
    with torch.no_grad():
        return torch.stack([model(torch.tensor([row])).logits[0, {place}, words] for row in rows])
'''


def words_snippet(bundle: Bundle) -> str:
    """Python that scores texts as the devices do, a text at a time."""
    text, task = bundle.manifest.text, bundle.manifest.task
    return _SNIPPET.format(
        auto="AutoModelForMaskedLM" if "{mask}" in text.template else "AutoModelForCausalLM",
        classes=", ".join(task.class_names),
        words=", ".join(task.label_words),
        template=text.template,
        side=text.truncation_side,
        prefix=list(text.prefix_ids),
        suffix=list(text.suffix_ids),
        word_ids=list(task.label_word_ids),
        room=text.max_tokens - len(text.prefix_ids) - len(text.suffix_ids),
        lead=text.text_lead,
        place=task.pooling_offset_tokens if task.pooling == "cls" else -1 - task.pooling_offset_tokens,
    )
