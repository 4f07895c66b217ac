"""ChainFed's auxiliary branch: a segment's adapters without its frozen part, as methods of the program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from device_runtime.bundle import Bundle
from export.writer import Options, write_bundle
from tests.export.chain import Chain
from tests.export.reference import random_adapter


@pytest.fixture(scope="module")
def bundle(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    options = Options(
        model=str(tiny_source), class_names=("no", "yes"), adapter="bottleneck", bottleneck=5, max_tokens=32,
        batch_examples=2,
    )  # fmt: skip
    return write_bundle(options, tmp_path_factory.mktemp("auxiliary") / "bundle")


def test_the_program_has_a_branch_for_every_segment(bundle: Bundle) -> None:
    methods = {method.name: method for method in bundle.manifest.chain.methods}
    assert list(methods) == [
        "embed",
        "segment_0",
        "auxiliary_0",
        "segment_1",
        "auxiliary_1",
        "head",
        "head_gradient",
    ]
    for k in range(2):
        branch = methods[f"auxiliary_{k}"]
        assert (branch.delegates, list(branch.undelegated_operators)) == (1, [])
        # Two bottlenecks of two products each, and nothing of the frozen layer.
        assert branch.flops == 2 * 2 * 2 * (2 * 32) * 5 * 32
        assert branch.constant_bytes < methods[f"segment_{k}"].constant_bytes - 20_000


@pytest.mark.parametrize("tokens", [32, 8, 2])
def test_a_branch_is_its_bottlenecks_one_after_the_other(bundle: Bundle, tokens: int) -> None:
    chain = Chain(bundle)
    adapter = random_adapter(bundle, 3, 0.3)
    parts = {t.name: adapter[t.span].view(t.shape) for t in bundle.layout.tensors}
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(2, tokens, 32, generator=generator)
    for k in range(2):
        names = [tensor.name for tensor in bundle.layout.segment_tensors(k)]
        found = chain.module.run_method(f"auxiliary_{k}", (hidden, *(parts[name] for name in names)))[0]
        wanted = hidden
        for place in ("attention.output.dense", "output.dense"):
            path = f"base_model.model.encoder.layer.{k}.{place}.adapter_"
            low = wanted @ parts[f"{path}down.weight"].T + parts[f"{path}down.bias"]
            up = torch.nn.functional.gelu(low) @ parts[f"{path}up.weight"].T + parts[f"{path}up.bias"]
            wanted = wanted + up
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
