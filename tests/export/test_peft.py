"""PEFT adapters as a starting point, and back: what is read and refused, and bytes that stay the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cloud_service.peft_export import export_peft
from device_runtime.bundle import Bundle
from device_runtime.errors import BundleError, CooperLLMError
from device_runtime.text import Tokenizer
from device_runtime.zo.grid import round_to_grid
from export.model import Model
from export.writer import Options, describe, write_bundle
from tests.export.adapter_reference import eager_with_adapter
from tests.export.chain import Chain
from tests.export.reference import ragged_batch

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
HEAD = "base_model.model.classifier."


@pytest.fixture(scope="module")
def options(tiny_source: Path) -> Options:
    return Options(
        model=str(tiny_source), class_names=("red", "green", "blue"), max_tokens=32, batch_examples=3
    )


@pytest.fixture
def saved(tiny_source: Path, tmp_path: Path) -> Path:
    """A LoRA on a BERT classifier as PEFT itself saves it: r 2, on key and value, its classifier with it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(5)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_source, num_labels=3)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["key", "value"], task_type="SEQ_CLS")
    model: Any = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def change(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **config: Any) -> None:
    fields = json.loads((folder / CONFIG).read_text("utf-8"))
    (folder / CONFIG).write_text(json.dumps({**fields, **config}), "utf-8")
    if tensors is not None:
        save_file(tensors, folder / TENSORS)


@pytest.mark.ci
def test_a_peft_adapter_starts_a_bundle_and_comes_back_bit_for_bit(
    saved: Path, options: Options, tiny_source: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    first = write_bundle(replace(options, adapter_from=str(saved)), tmp_path / "first", note=notes.append)
    kind = first.manifest.adapter
    assert (kind.kind, kind.r, kind.lora_alpha, list(kind.target_modules)) == (
        "lora",
        2,
        6.0,
        ["key", "value"],
    )
    given = {name.replace(".bert.", "."): values for name, values in load_file(saved / TENSORS).items()}
    assert set(given) == {t.name for t in first.layout.tensors}
    for tensor in first.layout.tensors:
        rounded = round_to_grid(given[tensor.name].numpy().reshape(-1), tensor.exponent)
        assert np.array_equal(first.adapter[tensor.span], rounded), tensor.name
    largest = max(
        np.abs(first.adapter[t.span] - given[t.name].numpy().reshape(-1)).max() for t in first.layout.tensors
    )
    assert 0 < largest <= max(2.0 ** -(t.exponent + 1) for t in first.layout.tensors)
    assert notes == [f"{saved / TENSORS}: rounded to the grid once, largest change {largest:.3g}"]

    adapter = torch.from_numpy(first.adapter.copy())
    ids, mask, labels = ragged_batch(first, 16, 1)
    _, _, logits = Chain(first).run(adapter, ids, mask, labels)
    wanted = eager_with_adapter(first, tiny_source, adapter)(ids, mask)
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)

    export_peft(first, first.adapter, tmp_path / "out")
    second = unlowered(replace(options, adapter_from=str(tmp_path / "out")))
    assert second.layout == first.layout
    assert np.array_equal(second.adapter, first.adapter)
    export_peft(second, second.adapter, tmp_path / "again")
    for name in (TENSORS, CONFIG, "score.py"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def unlowered(options: Options) -> Bundle:
    """What an export says about the adapter, without a program, which nothing here needs."""
    manifest, network, start, _ = describe(options)
    manifest.chain.segments = network.segments
    return Bundle(Path(), "", manifest, start.layout, start.values)


@pytest.mark.parametrize("kind", ["lora", "lora_fa", "bottleneck", "bitfit", "prefix", "head", "full"])
def test_export_import_export_is_bit_for_bit(kind: str, options: Options, tmp_path: Path) -> None:
    bundle = unlowered(replace(options, adapter=kind, seed=3))
    trained = np.random.default_rng(1).normal(0.0, 2.0, bundle.layout.parameters)  # beyond the start's grid
    exponents = [t.exponent for t in bundle.layout.tensors]
    for tensor, exponent in zip(bundle.layout.tensors, exponents, strict=True):
        trained[tensor.span] = round_to_grid(trained[tensor.span], exponent)
    export_peft(bundle, trained.astype(np.float32), tmp_path / "0")
    again = replace(options, adapter=kind, seed=3)
    for number in range(2):
        bundle = unlowered(replace(again, adapter_from=str(tmp_path / str(number))))
        export_peft(bundle, bundle.adapter, tmp_path / str(number + 1))
    names = sorted(path.name for path in (tmp_path / "0").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "2").iterdir())
    assert (CONFIG in names) == kind.startswith("lora")
    assert ("README.md" in names) != (CONFIG in names)
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
    trained_file, first = (load_file(tmp_path / number / TENSORS) for number in "01")
    for name, values in trained_file.items():  # rounded once, by half a step of the new grid at most
        torch.testing.assert_close(first[name], values, atol=2**-18, rtol=0)


def test_our_own_adapter_file_is_a_start(options: Options, tiny_bundle: Bundle) -> None:
    asked = replace(options, rank=4, seed=9)
    assert not np.array_equal(unlowered(asked).adapter, tiny_bundle.adapter)
    for place in (tiny_bundle.path("adapter"), tiny_bundle.folder):
        bundle = unlowered(replace(asked, adapter_from=str(place)))
        assert np.array_equal(bundle.adapter, tiny_bundle.adapter)


def test_a_lora_fa_is_a_lora_for_peft(options: Options, tiny_source: Path, tmp_path: Path) -> None:
    frozen = unlowered(replace(options, adapter="lora_fa", rank=3, seed=4))
    export_peft(frozen, frozen.adapter, tmp_path / "fa")
    bundle = unlowered(replace(options, adapter_from=str(tmp_path / "fa")))
    assert bundle.manifest.adapter.r == 3
    assert {t.name for t in bundle.layout.tensors} == set(load_file(tmp_path / "fa" / TENSORS))
    with pytest.raises(BundleError, match="not this --seed's frozen factor"):
        unlowered(replace(options, adapter="lora_fa", seed=5, adapter_from=str(tmp_path / "fa")))


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [("lora_fa", "mean"), ("bitfit", "mean"), ("head", "cls"), ("head", "last"), ("full", "mean")],
)
def test_score_py_gives_the_same_logits(
    kind: str, pooling: str, options: Options, tiny_source: Path, tmp_path: Path
) -> None:
    manifest, network, start, tokenizer = describe(replace(options, adapter=kind, rank=4, pooling=pooling))
    noise = np.random.default_rng(2).normal(0.0, 0.1, start.layout.parameters)
    adapter = round_to_grid(start.values + noise, 19)
    export_peft(Bundle(Path(), "", manifest, start.layout, start.values), adapter, tmp_path / "peft")
    scope: dict[str, Any] = {}
    exec((tmp_path / "peft" / "score.py").read_text("utf-8"), scope)
    texts = ["red apple", "a long text about the sea, " * 9, "grass"]
    scored = scope["logits"](texts, str(tiny_source), str(tmp_path / "peft"))
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.file())
    tokens = Tokenizer(tmp_path / "tokenizer.json", manifest.text).encode(texts)
    ids, mask = torch.from_numpy(tokens.input_ids), torch.from_numpy(tokens.attention_mask)
    model = Model(network, start.layout)
    for values, same in ((adapter, True), (start.values, False)):
        model.load_adapter(values)
        with torch.no_grad():
            logits = model(ids, mask, torch.zeros(3, dtype=torch.int64))[2]
        assert ((scored - logits).abs().max() < 1e-4) == same


def test_what_saved_adapters_may_look_like(saved: Path, options: Options, tmp_path: Path) -> None:
    asked = replace(options, adapter_from=str(saved))
    whole = unlowered(asked)
    tensors = load_file(saved / TENSORS)
    # An expression for the modules; 16-bit values; no head: the task's starts as ever.
    kept = {name: values.bfloat16() for name, values in tensors.items() if "classifier" not in name}
    change(saved, kept, target_modules=".*(key|value)")
    bundle = unlowered(asked)
    paths = [f"encoder.layer.{layer}.attention.self.{name}" for layer in (0, 1) for name in ("key", "value")]
    assert list(bundle.manifest.adapter.target_modules) == paths
    assert [t.name for t in bundle.layout.tensors] == [t.name for t in whole.layout.tensors]
    head = slice(bundle.layout.parameters - 99, None)
    assert np.array_equal(bundle.adapter[head], unlowered(options).adapter[-99:])
    np.testing.assert_allclose(bundle.adapter[:-99], whole.adapter[:-99], rtol=2**-8, atol=2**-20)
    # One layer only.
    change(saved, {n: v for n, v in kept.items() if ".layer.1." in n}, layers_to_transform=[1])
    assert {t.segment for t in unlowered(asked).layout.tensors} == {1, 2}
    assert list(unlowered(asked).manifest.adapter.target_modules) == paths[2:]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' cannot be imported; only 'LORA'"),
        ({"use_rslora": True}, "use_rslora is not supported"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"bias": "all"}, "bias 'all' is not supported"),
        ({"rank_pattern": {"key": 4}}, "rank_pattern is not supported"),
        ({"a_field_of_tomorrow": 1}, "a_field_of_tomorrow is not supported"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the base model"),
        ({"r": 3}, r"lora_A.weight has the shape \[2, 32\], this program takes \[3, 32\]"),
        ({"r": 0}, "r 0 and lora_alpha 6 make no LoRA"),
        ({"r": "two"}, "not a PEFT configuration"),
        ({"target_modules": None}, "not a PEFT configuration"),
        ({"target_modules": ["key", "value", "query"]}, "has no encoder.layer.0.attention.self.query.lora_A"),
        ({"target_modules": ["key"]}, "value.lora_A.weight has no place in this program"),
        ({"target_modules": ["keys"]}, "no module is called keys here"),
    ],
)
def test_configurations_that_do_not_fit(saved: Path, options: Options, fields: dict, reason: str) -> None:
    change(saved, **fields)
    refused(replace(options, adapter_from=str(saved)), reason)


def test_tensors_that_do_not_fit(saved: Path, options: Options, tmp_path: Path) -> None:
    asked = replace(options, adapter_from=str(saved))
    tensors = load_file(saved / TENSORS)
    name = next(name for name in tensors if name.endswith("layer.1.attention.self.key.lora_B.weight"))
    for altered, reason in [
        ({n: v for n, v in tensors.items() if n != name}, "has no encoder.layer.1.attention.self.key.lora_B"),
        (
            {**tensors, "base_model.model.bert.pooler.dense.lora_A.weight": torch.zeros(2, 32)},
            "no place in this",
        ),
        ({**tensors, name: torch.full((32, 2), torch.nan)}, "contains NaN or infinity"),
        ({**tensors, name: torch.full((32, 2), torch.inf)}, "contains NaN or infinity"),
        ({**tensors, name: torch.full((32, 2), 3e38)}, "key.lora_B.weight: no grid holds .* 3e.38"),
        ({**tensors, f"{HEAD}weight": torch.zeros(4, 32)}, r"\[4, 32\], this program takes \[3, 32\]"),
    ]:
        change(saved, altered)
        refused(asked, reason)
    (saved / TENSORS).write_bytes(b"no tensors")
    refused(asked, "not a readable safetensors file")
    (saved / TENSORS).unlink()
    refused(asked, "no adapter there; give a folder with adapter_model.safetensors")
    (saved / CONFIG).write_text("[]", "utf-8")
    save_file(tensors, saved / TENSORS)
    refused(asked, "not a PEFT configuration")
    refused(replace(asked, adapter="bottleneck"), "not a PEFT configuration")


def test_a_lora_starts_no_other_kind(saved: Path, options: Options) -> None:
    refused(
        replace(options, adapter="bitfit", adapter_from=str(saved)), "is no start for the adapter kind bitfit"
    )


def refused(options: Options, reason: str) -> None:
    with pytest.raises(CooperLLMError, match=reason) as caught:
        describe(options)
    assert "\n" not in str(caught.value)
