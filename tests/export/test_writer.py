"""What a bundle starts from, and one-line errors for what cannot be exported."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from device_runtime.bundle import Bundle
from device_runtime.errors import BundleError, CooperLLMError, OptionError
from export.model import build
from export.segments import cut
from export.writer import Options, describe, write_bundle


def refused(options: Options, out: Path, reason: str) -> None:
    with pytest.raises(CooperLLMError, match=reason) as caught:
        write_bundle(options, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.fixture
def options(tiny_source: Path) -> Options:
    return Options(class_names=("a", "b"), model=str(tiny_source), max_tokens=32)


def copy_source(tiny_source: Path, folder: Path, without: str = "", **config: object) -> str:
    shutil.copytree(tiny_source, folder)
    if without:
        (folder / without).unlink()
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, **config}))
    return str(folder)


def test_manifest_says_what_was_asked(tiny_bundle: Bundle, tiny_source: Path) -> None:
    manifest = tiny_bundle.manifest
    assert (manifest.family, manifest.precision) == ("bert", "fp32")
    assert (manifest.source.model, manifest.source.revision) == ("tiny-bert", "")
    assert json.loads(manifest.source.config_json) == json.loads((tiny_source / "config.json").read_text())
    assert (manifest.adapter.kind, manifest.adapter.r) == ("lora", 4)
    assert manifest.task.pooling == "mean"
    assert tiny_bundle.class_names == ["red", "green", "blue"]
    assert (manifest.text.max_tokens, manifest.text.pad_id) == (32, 0)
    assert (manifest.chain.segments, manifest.chain.batch_examples, manifest.chain.hidden_size) == (2, 4, 32)
    assert manifest.layout.parameters == 2 * 2 * (4 * 32 + 32 * 4) + 3 * 32 + 3


def test_initial_adapter(tiny_bundle: Bundle) -> None:
    values = {t.name: tiny_bundle.adapter[t.span].reshape(t.shape) for t in tiny_bundle.layout.tensors}
    for name, tensor in values.items():
        if "lora_B" in name or name.endswith("bias"):
            assert not tensor.any()
        elif "lora_A" in name:
            assert np.abs(tensor).max() <= 1 / np.sqrt(32) + 2**-20
            assert tensor.std() == pytest.approx(1 / np.sqrt(3 * 32), rel=0.2)
        else:
            assert tensor.std() == pytest.approx(0.02, rel=0.3)
    drawn = [tensor.tobytes() for tensor in values.values() if tensor.any()]
    assert len(set(drawn)) == len(drawn)
    assert all(t.exponent == 20 for t in tiny_bundle.layout.tensors)
    loaded = load_file(tiny_bundle.path("adapter"))
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {
        n: t.tolist() for n, t in values.items()
    }


def test_the_cloud_refuses_other_weights(tiny_bundle: Bundle, tiny_source: Path, tmp_path: Path) -> None:
    other = Path(copy_source(tiny_source, tmp_path / "other"))
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (other / "model.safetensors").write_bytes(data)
    with pytest.raises(BundleError, match="not the weights"):
        build(tiny_bundle.manifest, str(other))


def test_the_cloud_refuses_another_layout(tiny_bundle: Bundle, tiny_source: Path) -> None:
    manifest = type(tiny_bundle.manifest)()
    manifest.CopyFrom(tiny_bundle.manifest)
    manifest.adapter.r = 2
    with pytest.raises(BundleError, match="layout"):
        build(manifest, str(tiny_source))


def test_cut() -> None:
    assert cut(7, 3) == [range(3), range(3, 5), range(5, 7)]
    assert cut(7, None) == [range(i, i + 1) for i in range(7)]
    assert cut(7, (1, 2, 4)) == [range(1), range(1, 3), range(3, 7)]


def test_the_torch_model_has_the_bundles_cut(options: Options, tiny_source: Path, tmp_path: Path) -> None:
    model = copy_source(tiny_source, tmp_path / "three", num_hidden_layers=3)
    weights = load_file(tiny_source / "model.safetensors")
    third = {k.replace("layer.1.", "layer.2."): v for k, v in weights.items() if "layer.1." in k}
    save_file({**weights, **third}, tmp_path / "three" / "model.safetensors")
    asked = dataclasses.replace(options, model=model, segments=(1, 2))
    manifest, network, *_ = describe(asked)
    assert [network.blocks(k) for k in range(network.segments)] == [1, 2]
    manifest.chain.segments = 2
    for k, blocks in enumerate((1, 2)):
        manifest.chain.methods.add(name=f"segment_{k}", blocks=blocks)
    assert [len(segment.blocks) for segment in build(manifest, model).segments] == [1, 2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"class_names": ("a",)}, "two classes"),
        ({"class_names": ("a", "a")}, "name of its own"),
        ({"class_names": ("a", "")}, "name of its own"),
        ({"pooling": "max"}, "pooling 'max'"),
        ({"precision": "int3"}, "precision 'int3'"),
        ({"segments": 3}, "choose 1 to 2"),
        ({"segments": 0}, "choose 1 to 2"),
        ({"segments": (1, 2)}, "this model has 2 blocks"),
        ({"segments": (0, 2)}, "segments of 1 or more"),
        ({"rank": 0}, "--rank"),
        ({"target_modules": ("querry",)}, "no module is called querry"),
        ({"max_tokens": 30}, "multiple"),
        ({"max_tokens": 4}, "at least 8"),
        ({"model": "/nowhere/at/all"}, "no local folder"),
    ],
)
def test_options_that_make_no_sense(options: Options, tmp_path: Path, change: dict, reason: str) -> None:
    refused(dataclasses.replace(options, **change), tmp_path / "out", reason)


@pytest.mark.parametrize(
    ("without", "config", "reason"),
    [
        ("config.json", {}, "no config.json"),
        ("model.safetensors", {}, "pickled weights are never read"),
        ("tokenizer.json", {}, "no tokenizer.json"),
        ("", {"model_type": "gpt2"}, "'gpt2' is not supported"),
        ("", {"hidden_act": "elu"}, "'elu' is not supported"),
        ("", {"position_embedding_type": "relative_key"}, "relative_key"),
        ("", {"num_hidden_layers": 3}, "hold no tensor"),
    ],
)
def test_models_that_cannot_be_exported(
    options: Options, tiny_source: Path, tmp_path: Path, without: str, config: dict, reason: str
) -> None:
    if without == "config.json":
        model = copy_source(tiny_source, tmp_path / "model")
        (Path(model) / without).unlink()
    else:
        model = copy_source(tiny_source, tmp_path / "model", without, **config)
    refused(dataclasses.replace(options, model=model), tmp_path / "out", reason)


def test_a_folder_in_use_is_left_alone(options: Options, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("mine")
    with pytest.raises(OptionError, match="something there already"):
        write_bundle(options, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]


@pytest.mark.ci
def test_the_same_export_gives_the_same_bundle(
    tiny_bundle: Bundle, tiny_source: Path, tmp_path: Path
) -> None:
    options = Options(
        model=str(tiny_source), class_names=("red", "green", "blue"), rank=4, max_tokens=32, batch_examples=4
    )
    assert write_bundle(options, tmp_path / "again").sha256 == tiny_bundle.sha256
