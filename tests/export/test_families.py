"""Every family: a tiny model's program computes what transformers and PEFT do, one delegate a segment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.writer import Options, write_bundle
from tests.export.chain import Chain
from tests.export.reference import eager, ragged_batch, random_adapter
from tests.export.tiny_models import MODELS, save_tiny

TOLERANCE = 1e-4  # of logits whose deviation is at least 1


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_family(name: str, padding_side: str, tmp_path: Path) -> None:
    source = save_tiny(name, tmp_path / name, padding_side)
    options = Options(
        model=str(source), class_names=("red", "green", "blue"), rank=4, max_tokens=32, batch_examples=4,
        target_modules=MODELS[name][2],
    )  # fmt: skip
    bundle = write_bundle(options, tmp_path / "bundle")
    chain = Chain(bundle)
    for method in bundle.manifest.chain.methods:
        if method.name.startswith("segment_"):
            assert (method.delegates, list(method.undelegated_operators)) == (1, [])
    for seed, tokens in enumerate([8, 32, 24, 2]):
        adapter = random_adapter(bundle, seed)
        batch = ragged_batch(bundle, tokens, seed, padding_side)
        loss, _, logits = chain.run(adapter, *batch)
        wanted_loss, wanted_logits = eager(bundle, source, adapter, *batch)
        unit = max(1.0, float(wanted_logits.std()))
        torch.testing.assert_close(logits, wanted_logits, atol=TOLERANCE * unit, rtol=0)
        torch.testing.assert_close(loss, wanted_loss, atol=TOLERANCE * unit, rtol=0)
        changed, _, _ = chain.run(random_adapter(bundle, seed + 100), *batch)
        assert (changed - loss).abs().max() > 100 * TOLERANCE
