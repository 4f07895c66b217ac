"""The trained adapter as a PEFT adapter, adapter_model.safetensors and adapter_config.json, and its use.

The layout's names are PEFT's, so the tensors are written as they are. PEFT puts the LoRA into the encoder;
the classifier lies in the same file, because no stock transformers head pools as the bundle's task does.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.numpy import save

from cloud_service.plan import Float32
from device_runtime.bundle import Bundle

_POOLED = {
    "mean": "(hidden * mask).sum(1) / mask.sum(1)",
    "cls": "hidden[:, 0]",
}

_SNIPPET = '''\
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

def logits(texts, source, adapter):
    """Scores of the classes {classes}, by a folder or Hugging Face id of the base model."""
    tokens = AutoTokenizer.from_pretrained(source)(
        texts, padding=True, truncation=True, max_length={max_tokens}, return_tensors="pt")
    encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(source), adapter).eval()
    head = load_file(f"{{adapter}}/adapter_model.safetensors")
    with torch.no_grad():
        hidden, mask = encoder(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
        pooled = {pooled}
    return pooled @ head["{prefix}.weight"].T + head["{prefix}.bias"]
'''


def export_peft(bundle: Bundle, adapter: Float32, folder: Path) -> None:
    """Writes an adapter (n,) of the bundle's layout as a PEFT adapter, with `score.py` that uses it.

    Raises LayoutError when the adapter is not of the layout: a mistake of the caller.
    """
    bundle.layout.check(adapter)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        tensor.name: adapter[tensor.span].reshape(tensor.shape).copy() for tensor in bundle.layout.tensors
    }
    (folder / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    (folder / "adapter_config.json").write_text(_config(bundle), encoding="utf-8")
    (folder / "score.py").write_text(snippet(bundle), encoding="utf-8")


def snippet(bundle: Bundle) -> str:
    """At most 15 lines of Python that score texts with transformers and PEFT, as the devices do."""
    classifier = next(t.name for t in bundle.layout.tensors if t.name.endswith("classifier.weight"))
    return _SNIPPET.format(
        classes=", ".join(bundle.class_names),
        max_tokens=bundle.manifest.text.max_tokens,
        pooled=_POOLED[bundle.manifest.task.pooling],
        prefix=classifier[: -len(".weight")],
    )


def _config(bundle: Bundle) -> str:
    kind, source = bundle.manifest.adapter, bundle.manifest.source
    config = {
        "base_model_name_or_path": source.model,
        "revision": source.revision or None,
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "r": kind.r,
        "lora_alpha": kind.lora_alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(kind.target_modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    return json.dumps(config, indent=2, sort_keys=True) + "\n"
