"""Every adapter kind: its program is the paper's formula on transformers' model, one delegate a segment."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from device_runtime.bundle import Bundle
from device_runtime.errors import OptionError
from export.model import Model, build
from export.writer import Options, describe, write_bundle
from tests.export.adapter_reference import eager_with_adapter
from tests.export.chain import Chain
from tests.export.reference import ragged_batch, random_adapter
from tests.export.tiny_models import save_tiny

TOLERANCE = 1e-4  # of logits whose deviation is at least 1
# What each kind trains in a layer of the tiny BERT (width 32, inner width 64), the head's 99 aside.
PARAMETERS = {
    "lora": 2 * 2 * 4 * 32,
    "lora_fa": 2 * 4 * 32,
    "bottleneck": 2 * (2 * 5 * 32 + 5 + 32),
    "bitfit": 4 * 32 + 64 + 32 + 2 * 32,
    "prefix": 2 * 3 * 32,
    "head": 0,
    "full": 4 * 33 * 32 + 33 * 64 + 65 * 32 + 2 * 2 * 32,
}


def options(source: Path, kind: str) -> Options:
    return Options(
        model=str(source), class_names=("red", "green", "blue"), pooling="mean", adapter=kind, rank=4,
        bottleneck=5, prefix_tokens=3, max_tokens=32, batch_examples=3, seed=7,
    )  # fmt: skip


def moved(bundle: Bundle, seed: int) -> torch.Tensor:
    """The start plus something random everywhere, most in the head, for logits of a deviation near 1."""
    step = random_adapter(bundle, seed, 0.1)
    step[bundle.layout.segment_slice(bundle.manifest.chain.segments)] *= 5
    return torch.from_numpy(bundle.adapter.copy()) + step


def check_equal(chain: Chain, source: Path) -> None:
    """Logits as transformers', for several lengths; another adapter changes every loss."""
    bundle = chain.bundle
    for seed, tokens in enumerate([8, 32, 2]):
        adapter = moved(bundle, seed)
        ids, mask, labels = ragged_batch(bundle, tokens, seed)
        loss, _, logits = chain.run(adapter, ids, mask, labels)
        wanted = eager_with_adapter(bundle, source, adapter)(ids, mask)
        unit = max(1.0, float(wanted.std()))
        torch.testing.assert_close(logits, wanted, atol=TOLERANCE * unit, rtol=0)
        changed, _, _ = chain.run(moved(bundle, seed + 100), ids, mask, labels)
        assert (changed - loss).abs().min() > 10 * TOLERANCE


def check_every_tensor(chain: Chain) -> None:
    """Each adapter tensor alone changes the loss."""
    bundle = chain.bundle
    adapter, step, batch = moved(bundle, 5), random_adapter(bundle, 55, 1.0), ragged_batch(bundle, 16, 5)
    before, _, _ = chain.run(adapter, *batch)
    for tensor in bundle.layout.tensors:
        if tensor.name.endswith("key.bias"):  # the same for every score of a query: softmax takes it out
            continue
        changed = adapter.clone()
        changed[tensor.span] += step[tensor.span]
        after, _, _ = chain.run(changed, *batch)
        assert (after - before).abs().max() > 1e-4, tensor.name


def check_gradient(chain: Chain, source: Path) -> None:
    """Projected gradients of the program along 16 directions against autograd's of the cloud's model."""
    bundle = chain.bundle
    model = build(bundle.manifest, str(source))
    adapter = moved(bundle, 8)
    model.load_adapter(adapter.numpy())
    ids, mask, labels = ragged_batch(bundle, 16, 8)
    arrays = {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), "labels": labels.numpy()}
    _, gradient = model.gradient(SimpleNamespace(**arrays, weights=np.ones(3, np.float32)))
    epsilon, measured, wanted = 0.05 / len(adapter) ** 0.5, [], []
    for seed in range(16):
        signs = torch.randint(0, 2, adapter.shape, generator=torch.Generator().manual_seed(1000 + seed))
        z = signs * 2.0 - 1.0
        up, down = (chain.run(adapter + side * epsilon * z, ids, mask, labels)[0] for side in (1, -1))
        measured.append(float((up - down).double().mean() / (2 * epsilon)))
        wanted.append(float(gradient.astype(np.float64) @ z.double().numpy()))
    assert np.linalg.norm(np.subtract(measured, wanted)) / np.linalg.norm(wanted) < 1e-2


def check(source: Path, kind: str, folder: Path) -> Bundle:
    bundle = write_bundle(options(source, kind), folder)
    for method in bundle.manifest.chain.methods:
        assert method.delegates == 1, method.name
        assert not (method.name.startswith("segment_") and method.undelegated_operators)
    chain = Chain(bundle)
    check_equal(chain, source)
    check_every_tensor(chain)
    check_gradient(chain, source)
    return bundle


def one_layer(source: Path, folder: Path) -> Path:
    """The same model up to its first layer: half the work of an export."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}), "utf-8")
    return folder


@pytest.mark.parametrize("kind", ["bottleneck", pytest.param("prefix", marks=pytest.mark.ci)])
def test_kind_on_two_layers(kind: str, tiny_source: Path, tmp_path: Path) -> None:
    bundle = check(tiny_source, kind, tmp_path / kind)
    assert bundle.layout.parameters == 2 * PARAMETERS[kind] + 99
    assert len({t.name for t in bundle.layout.tensors}) == len(bundle.layout.tensors)


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["lora_fa", "bitfit", "head", "full"])
def test_kind_on_an_encoder(kind: str, tiny_source: Path, tmp_path: Path) -> None:
    bundle = check(one_layer(tiny_source, tmp_path / "bert"), kind, tmp_path / kind)
    assert bundle.layout.parameters == PARAMETERS[kind] + 99
    assert all(t.name.startswith("base_model.model.") for t in bundle.layout.tensors)


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["prefix", "full"])
def test_kind_on_a_decoder(kind: str, tmp_path: Path) -> None:
    check(one_layer(save_tiny("llama", tmp_path / "two"), tmp_path / "llama"), kind, tmp_path / kind)


@pytest.mark.ci
@pytest.mark.parametrize(("model", "kind"), [("phi3", "full"), ("gemma3", "full"), ("opt", "bitfit")])
def test_parameters_of_fused_and_shifted_modules(model: str, kind: str, tmp_path: Path) -> None:
    """Rows of one matrix, a norm's weight plus one, a decoder's biases: names and values as transformers'."""
    source = save_tiny(model, tmp_path / model)
    manifest, network, start, _ = describe(options(source, kind))
    layout = manifest.layout
    bundle = Bundle(tmp_path, "", manifest, start.layout, start.values)
    assert layout.parameters == start.layout.parameters
    manifest.chain.segments, manifest.chain.batch_examples = network.segments, 3
    torch_model = Model(network, start.layout)
    adapter = moved(bundle, 3)
    torch_model.load_adapter(adapter.numpy())
    ids, mask, labels = ragged_batch(bundle, 16, 3)
    with torch.no_grad():
        logits = torch_model(ids, mask, labels)[2]
    wanted = eager_with_adapter(bundle, source, adapter)(ids, mask)
    torch.testing.assert_close(logits, wanted, atol=TOLERANCE * max(1.0, float(wanted.std())), rtol=0)


def test_options_that_make_no_sense(tiny_source: Path, tmp_path: Path) -> None:
    plain = options(tiny_source, "lora")
    for change, reason in [
        ({"adapter": "ia3"}, "--adapter 'ia3' is unknown; choose one of lora, lora_fa"),
        ({"adapter": "bottleneck", "bottleneck": 0}, "--bottleneck must be at least 1"),
        ({"adapter": "prefix", "prefix_tokens": 0}, "--prefix-tokens must be at least 1"),
        ({"rank": 0}, "--rank must be at least 1"),
        ({"adapter": "full", "target_modules": ("query",)}, "the adapter kind full has none"),
        ({"target_modules": ("querry",)}, "no module is called querry here; .* dense, key, query, value"),
        ({"adapter": "bottleneck", "target_modules": ("all-linear",)}, "no module is called all-linear"),
    ]:
        with pytest.raises(OptionError, match=reason) as caught:
            describe(replace(plain, **change))
        assert "\n" not in str(caught.value)
    decoder = save_tiny("llama", tmp_path / "llama")
    with pytest.raises(OptionError, match="--adapter bitfit: it trains nothing"):
        describe(options(decoder, "bitfit"))
