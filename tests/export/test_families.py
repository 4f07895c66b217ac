"""Every family: a tiny model's program computes what transformers and PEFT do, one delegate a segment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from device_runtime.errors import BundleError
from export.adapters import Adapter
from export.families import FAMILIES, PREFIXES, Family, Modules, Rules, family_of, is_causal
from export.model import build, configuration
from export.source import Weights, locate
from export.writer import Options, write_bundle
from tests.export.chain import Chain
from tests.export.directions import relative_error
from tests.export.reference import CLASSIFIER, eager, ragged_batch, random_adapter
from tests.export.tiny_models import MODELS, save_tiny

TOLERANCE = 1e-4  # of logits whose deviation is at least 1
CLASSES = ("red", "green", "blue")
MAX_TOKENS = 32
# (tokens, padding side): the longest, the edges of buckets of 8 and beside them, the shortest.
BATCHES = [(8, "left"), (32, "right"), (25, "left"), (16, "right"), (2, "right")]
# One layer is all that lowering has to see, the kind that sets the family apart, but for these families: what
# they show is how two layers differ, or are one.
TWO_LAYERS = ("llama", "albert", "modernbert", "gemma3")
ONE_LAYER: dict[str, dict[str, Any]] = {
    "qwen2": {"max_window_layers": 0},
    "qwen3": {"max_window_layers": 0},
    "gemma2": {"layer_types": ["sliding_attention"]},
    "smollm3": {"no_rope_layers": [0]},
}
# Variants of a family, and BERT, which test_program.py has.
VARIANTS = ("bert", "deberta-v2-xs", "opt-350m", "llama-3.2")


def part_of(name: str) -> Any:
    """When a model's program is tested."""
    mark = pytest.mark.long if name in VARIANTS else pytest.mark.ci
    return name if name == "llama" else pytest.param(name, marks=mark)


def frozen_family(source: Path, left_padding: bool) -> Family:
    located = locate(str(source))
    config = configuration(located.config)
    modules = Modules(Weights(located, PREFIXES), Adapter(), Rules(MAX_TOKENS, left_padding))
    return family_of(str(located.config["model_type"]))(config, modules)


def batch_of(tokens: int, padding_side: str, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids, mask int64 [3,T]: a full row, one of half the length, one of a single token."""
    ids = torch.randint(1000, 30000, (3, tokens), generator=torch.Generator().manual_seed(tokens))
    mask = torch.zeros(3, tokens, dtype=torch.int64)
    for row, length in enumerate((tokens, (tokens + 1) // 2, 1)):
        mask[row, slice(tokens - length, None) if padding_side == "left" else slice(length)] = 1
    return torch.where(mask == 1, ids, pad_id), mask


def block_flops(embed: Any, blocks: list[Any]) -> list[int]:
    """What each block's matrix products cost on one batch."""
    ids, mask = batch_of(MAX_TOKENS, "right", 0)
    costs = []
    with torch.no_grad():
        hidden, *made = embed(ids, mask)
        for block in blocks:
            with FlopCounterMode(display=False) as counter:
                hidden = block(hidden, dict(zip(embed.context_names, made, strict=True)), {})
            costs.append(counter.get_total_flops())
    assert min(costs) > 0
    return costs


@pytest.mark.parametrize("name", MODELS)
def test_language_model(name: str, tmp_path: Path) -> None:
    """Every layer and the language model's own head, in torch: the logits of every real token."""
    import transformers

    source = save_tiny(name, tmp_path / name, "left", language_model=True)
    causal = is_causal(MODELS[name][0])
    auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM
    reference = auto.from_pretrained(source, attn_implementation="eager").eval()
    family = frozen_family(source, left_padding=True)
    embed = family.embed()
    parts = [make() for make in (*family.blocks, *([family.final] if family.final else []))]
    project = family.project() if family.project else torch.nn.Identity()
    assert family.language_head is not None
    costs = block_flops(embed, parts[: len(family.blocks)])
    assert max(costs) <= 1.05 * min(costs)  # which segments.cut counts on
    for tokens, side in BATCHES:
        ids, mask = batch_of(tokens, side, reference.config.pad_token_id)
        with torch.no_grad():
            hidden, *made = embed(ids, mask)
            context = dict(zip(embed.context_names, made, strict=True))
            for part in parts:
                hidden = part(hidden, context, {})
            logits = family.language_head()(project(hidden))[mask == 1]
            wanted = reference(input_ids=ids, attention_mask=mask).logits[mask == 1]
        # A part of logits whose deviation is less than 1, too.
        torch.testing.assert_close(logits, wanted, atol=TOLERANCE * min(1.0, float(wanted.std())), rtol=0)


@pytest.mark.parametrize("name", [part_of(name) for name in MODELS])
def test_program(name: str, tmp_path: Path) -> None:
    one = {"num_hidden_layers": 1, "n_layers": 1, **ONE_LAYER.get(name, {})}
    source = save_tiny(name, tmp_path / name, "left", **({} if name in TWO_LAYERS else one))
    options = Options(
        model=str(source), class_names=CLASSES, pooling="mean", rank=4, target_modules=MODELS[name][2],
        max_tokens=MAX_TOKENS, batch_examples=4, segments=2 if name == "llama" else 1,
    )  # fmt: skip
    bundle = write_bundle(options, tmp_path / "bundle")
    for method in bundle.manifest.chain.methods:
        if method.name.startswith("segment_"):
            assert (method.delegates, list(method.undelegated_operators)) == (1, [])
    chain = Chain(bundle)
    for seed, (tokens, side) in enumerate(BATCHES):
        adapter, other = wide_adapter(bundle, seed), wide_adapter(bundle, seed + 100)
        batch = ragged_batch(bundle, tokens, seed, side)
        loss, _, logits = chain.run(adapter, *batch)
        wanted_loss, wanted_logits = eager(bundle, source, adapter, *batch)
        assert wanted_logits.std() > 1
        torch.testing.assert_close(logits, wanted_logits, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(loss, wanted_loss, atol=TOLERANCE, rtol=0)
        assert (chain.run(other, *batch)[0] - loss).abs().max() > 100 * TOLERANCE
    model = build(bundle.manifest, str(source))
    batch = ragged_batch(bundle, 16, 8, "left")
    assert relative_error(chain, model, random_adapter(bundle, 8), batch, 5e-4) < 1e-2


def wide_adapter(bundle: Any, seed: int) -> torch.Tensor:
    """Every tensor random and nowhere zero, the classifier's large, so that logits differ by more than 1."""
    adapter = random_adapter(bundle, seed)
    for tensor in bundle.layout.tensors:
        if tensor.name.startswith(CLASSIFIER):
            adapter[tensor.span] *= 20
    return adapter


LONGROPE = {
    "hidden_size": 32, "num_attention_heads": 4, "pad_token_id": 0, "original_max_position_embeddings": 16,
    "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4,
                        "long_factor": [2.0] * 4, "original_max_position_embeddings": 16},
}  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "changes", "reason"),
    [
        ("gpt2", {}, "model_type 'gpt2' is not supported; supported: albert, bert"),
        ("llama", {"hidden_act": "elu"}, "activation 'elu'"),
        ("phi3", LONGROPE, "'longrope'.* 16 tokens"),
        ("albert", {"inner_group_num": 2}, "inner_group_num 2"),
        ("deberta-v2", {"relative_attention": True, "conv_kernel_size": 3}, "conv_kernel_size 3"),
        ("deberta-v2", {}, "relative_attention"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3", {}, "model of images and text.*Gemma3ForCausalLM"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 2, "num_hidden_layers": 2}, "'chunked_attention'"),
        ("roberta", {"is_decoder": True}, "roberta: is_decoder"),
    ],
)  # fmt: skip
def test_what_stops_a_model_is_named(
    model_type: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    source = save_tiny("llama", tmp_path / "any")  # the configuration stops it before its weights are read
    fields = json.loads((source / "config.json").read_text())
    settings = {} if model_type == "llama" else {"model_type": model_type}
    kept = fields if model_type == "llama" else {}
    (source / "config.json").write_text(json.dumps({**kept, **settings, **changes}))
    with pytest.raises(BundleError, match=reason) as caught:
        write_bundle(Options(model=str(source), class_names=CLASSES, max_tokens=MAX_TOKENS), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_norms_by_their_first_names(tmp_path: Path) -> None:
    """The first BERT checkpoints say gamma and beta; transformers reads both."""
    source = save_tiny("bert", tmp_path / "bert")
    tensors = load_file(source / "model.safetensors")
    batch = batch_of(8, "right", 0)
    with torch.no_grad():
        wanted = frozen_family(source, left_padding=False).embed()(*batch)[0]
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    save_file(renamed, source / "model.safetensors")
    with torch.no_grad():
        found = frozen_family(source, left_padding=False).embed()(*batch)[0]
    assert torch.equal(found, wanted)


def test_every_family_has_a_tiny_model() -> None:
    # gemma3 is there only to say what to do instead.
    assert {model_type for model_type, _, _ in MODELS.values()} == FAMILIES.keys() - {"gemma3"}
