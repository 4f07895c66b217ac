"""The trained adapter for transformers and PEFT: adapter_model.safetensors, and what uses it.

The layout's names are PEFT's, so the tensors are written as they are. LoRA and LoRA-FA become a PEFT adapter,
with an adapter_config.json; LoRA-FA's frozen A is written beside its B. Kinds that PEFT does not know become
the tensors alone. Where the bundle classifies by a trained head, that head lies in the same file, because no
stock transformers head pools as the bundle's task does; score.py puts both together.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.numpy import save

from cloud_service.directions import Float32
from cloud_service.peft_words import words_snippet
from device_runtime.bundle import Bundle
from device_runtime.errors import BundleError
from device_runtime.lora_fa import frozen_factor
from protos import bundle_pb2

_LORA = ("lora", "lora_fa")
# Kinds whose tensors are the model's own parameters, under the model's own names.
_PARAMETERS = ("bitfit", "full", "head")
_POOLED = {
    "mean": "(hidden * mask).sum(1) / mask.sum(1)",
    "cls": "hidden[torch.arange(len(mask)), mask[..., 0].argmax(1)]",
    "last": "hidden[torch.arange(len(mask)), mask[..., 0].cumsum(1).argmax(1)]",
}
_PEFT_ENCODER = "encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(source), adapter).eval()"
_PLAIN_ENCODER = """\
encoder = AutoModel.from_pretrained(source).eval()
    own = {{name.removeprefix("base_model.model."): value for name, value in head.items()}}
    encoder.load_state_dict(own, strict=False)"""
_SNIPPET = '''\
import torch{import_peft}
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

def logits(texts, source, adapter):
    """Scores of the classes {classes}, by a folder or Hugging Face id of the base model."""
    tokens = AutoTokenizer.from_pretrained(source)(
        texts, padding=True, truncation=True, max_length={max_tokens}, return_tensors="pt")
    head = load_file(f"{{adapter}}/adapter_model.safetensors")
    {encoder}
    with torch.no_grad():
        hidden, mask = encoder(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
        pooled = {pooled}
    return pooled @ head["{prefix}.weight"].T + head["{prefix}.bias"]
'''
_README = """\
# An adapter of the kind {kind}

PEFT has no such kind, so there is no adapter_config.json: adapter_model.safetensors holds the tensors{names}.
Start from it again with `cooperllm export --adapter {kind} --adapter-from FOLDER`, and the bundle's options.
"""


def export_peft(bundle: Bundle, adapter: Float32, folder: Path) -> None:
    """Writes an adapter (n,) of the bundle's layout for transformers and PEFT.

    Raises LayoutError when the adapter is not of the layout: a mistake of the caller.
    """
    bundle.layout.check(adapter)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        tensor.name: adapter[tensor.span].reshape(tensor.shape).copy() for tensor in bundle.layout.tensors
    }
    kind = bundle.manifest.adapter
    for frozen in kind.frozen:
        rows, columns = frozen.shape
        tensors[frozen.name] = frozen_factor(kind.seed, frozen.name, (rows, columns))
    (folder / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    if kind.kind in _LORA:
        (folder / "adapter_config.json").write_text(_config(bundle), encoding="utf-8")
    else:
        (folder / "README.md").write_text(_readme(kind), encoding="utf-8")
    if _scores(bundle):
        (folder / "score.py").write_text(snippet(bundle), encoding="utf-8")


def snippet(bundle: Bundle) -> str:
    """At most 17 lines of Python that score texts with transformers and PEFT, as the devices do.

    Raises BundleError where neither has what the bundle does: a task without a head of its own, or a kind of
    adapter that is no part of theirs.
    """
    if not _scores(bundle):
        kind, task = bundle.manifest.adapter.kind, bundle.manifest.task.kind
        raise BundleError(f"transformers and PEFT cannot score {task} with the adapter kind {kind}")
    if bundle.manifest.task.kind == "label_words":
        return words_snippet(bundle)
    peft = bundle.manifest.adapter.kind in _LORA
    classifier = next(t.name for t in bundle.layout.tensors if t.name.endswith("classifier.weight"))
    return _SNIPPET.format(
        import_peft="\nfrom peft import PeftModel" if peft else "",
        encoder=_PEFT_ENCODER if peft else _PLAIN_ENCODER.format(),
        classes=", ".join(bundle.class_names),
        max_tokens=bundle.manifest.text.max_tokens,
        pooled=_POOLED[bundle.manifest.task.pooling],
        prefix=classifier[: -len(".weight")],
    )


def _scores(bundle: Bundle) -> bool:
    task, kind = bundle.manifest.task.kind, bundle.manifest.adapter.kind
    if task == "label_words":
        return kind in _LORA
    return task == "sequence_classification" and kind in (*_LORA, *_PARAMETERS)


def _readme(kind: bundle_pb2.AdapterKind) -> str:
    own = ",\nnamed as in transformers after `base_model.model.`" if kind.kind in _PARAMETERS else ""
    return _README.format(kind=kind.kind, names=own)


def _config(bundle: Bundle) -> str:
    kind, source, task = bundle.manifest.adapter, bundle.manifest.source, bundle.manifest.task
    task_type: str | None = "FEATURE_EXTRACTION"
    if task.kind != "sequence_classification":
        masked = "{mask}" in bundle.manifest.text.template
        task_type = None if masked else "CAUSAL_LM"  # PEFT has no type for masked language models
    config = {
        "base_model_name_or_path": source.model,
        "revision": source.revision or None,
        "peft_type": "LORA",
        "task_type": task_type,
        "r": kind.r,
        "lora_alpha": int(kind.lora_alpha) if kind.lora_alpha.is_integer() else kind.lora_alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(kind.target_modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    return json.dumps(config, indent=2, sort_keys=True) + "\n"
