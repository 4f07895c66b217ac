"""The exported program computes what transformers + PEFT compute, and every segment is one delegate."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from device_runtime.bundle import Bundle
from export.model import build
from export.source import DEFAULT_MODEL, locate
from export.writer import Options, write_bundle
from tests.export.chain import Chain
from tests.export.reference import eager, ragged_batch, random_adapter

TOLERANCE = 1e-5

# What stays outside XNNPACK, and why: looking up embeddings, sizes and the mask's type in `embed`;
# log-softmax, gather and work on B numbers in `head`.
EMBED_OPERATORS = {
    "aten::sym_size",
    "aten::embedding",
    "dim_order_ops::_to_dim_order_copy",
    "aten::slice_copy",
}
HEAD_OPERATORS = {
    "aten::full", "aten::sum", "executorch_prim::et_view", "aten::_log_softmax", "aten::gather",
    "aten::squeeze_copy", "aten::neg",
}  # fmt: skip
GRADIENT_OPERATORS = {"aten::sum"}  # over the mask, for the mean


@dataclasses.dataclass
class ArrayBatch:
    input_ids: np.ndarray
    attention_mask: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


@pytest.fixture(scope="module")
def chain(tiny_bundle: Bundle) -> Chain:
    return Chain(tiny_bundle)


def check_against_references(chain: Chain, source: Path, lengths: list[int], deviation: float) -> None:
    """The program against Hugging Face eager and against the module that the cloud differentiates."""
    bundle = chain.bundle
    model = build(bundle.manifest, str(source))
    for seed, tokens in enumerate(lengths):
        adapter = random_adapter(bundle, seed, deviation)
        model.load_adapter(adapter.numpy())
        for side in ("right", "left"):
            ids, mask, labels = ragged_batch(bundle, tokens, seed, side)
            loss, count, logits = chain.run(adapter, ids, mask, labels)
            wanted_loss, wanted_logits = eager(bundle, source, adapter, ids, mask, labels)
            torch.testing.assert_close(logits, wanted_logits, atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(loss, wanted_loss, atol=TOLERANCE, rtol=0)
            assert count.tolist() == [1.0] * len(labels)
            with torch.no_grad():
                own_loss, _, own_logits = model(ids, mask, labels)
            torch.testing.assert_close(logits, own_logits, atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(loss, own_loss, atol=TOLERANCE, rtol=0)
            other = random_adapter(bundle, seed + 100, deviation)
            changed, _, _ = chain.run(other, ids, mask, labels)
            assert (changed - loss).abs().min() > 10 * TOLERANCE


def check_rounding(chain: Chain, source: Path) -> None:
    """Where float32 itself is worse than the tolerance, the program errs no more than transformers does.

    Factors of deviation 0.2 make updates far larger than MiniLM's weights: attention saturates, and
    transformers' own float32 logits lie up to 3e-5 from the function in float64. Both are held against that.
    """
    bundle = chain.bundle
    exact = build(bundle.manifest, str(source)).double()
    program_error = transformers_error = 0.0
    for seed, tokens in enumerate([16, 64]):
        adapter = random_adapter(bundle, seed, 0.2)
        exact.load_adapter(adapter.numpy())
        ids, mask, labels = ragged_batch(bundle, tokens, seed)
        head = exact.segment_tensors(bundle.manifest.chain.segments)
        with torch.no_grad():
            hidden = exact.hidden(ids, mask)
            truth = exact.head(hidden, mask.double(), labels, *head)[2]
        logits = chain.run(adapter, ids, mask, labels)[2]
        eager_logits = eager(bundle, source, adapter, ids, mask, labels)[1]
        program_error = max(program_error, float((logits - truth).abs().max()))
        transformers_error = max(transformers_error, float((eager_logits - truth).abs().max()))
    assert program_error < 3 * transformers_error < 3e-4


def check_delegates(bundle: Bundle) -> None:
    """Each method one delegate; outside it what is documented above."""
    allowed = {"embed": EMBED_OPERATORS, "head": HEAD_OPERATORS, "head_gradient": GRADIENT_OPERATORS}
    for method in bundle.manifest.chain.methods:
        outside = {name.split(".")[0] for name in method.undelegated_operators}
        assert method.delegates == 1, method.name
        assert outside == allowed.get(method.name, set())


def test_equals_transformers_and_peft(chain: Chain, tiny_source: Path) -> None:
    check_against_references(chain, tiny_source, [8, 32, 16, 24, 2], 0.2)


def test_one_delegate_each(tiny_bundle: Bundle) -> None:
    names = [method.name for method in tiny_bundle.manifest.chain.methods]
    assert names == ["embed", "segment_0", "segment_1", "head", "head_gradient"]
    check_delegates(tiny_bundle)


def test_every_adapter_tensor_matters(chain: Chain) -> None:
    adapter = random_adapter(chain.bundle, 5)
    batch = ragged_batch(chain.bundle, 16, 5)
    before, _, _ = chain.run(adapter, *batch)
    step = random_adapter(chain.bundle, 55)  # not the same for all: a bias shifted as a whole changes no loss
    for tensor in chain.bundle.layout.tensors:
        changed = adapter.clone()
        changed[tensor.span] += step[tensor.span]
        after, _, _ = chain.run(changed, *batch)
        assert (after - before).abs().max() > 1e-4, tensor.name


def test_a_row_without_tokens_is_finite_and_changes_no_other(chain: Chain) -> None:
    adapter = random_adapter(chain.bundle, 6)
    ids, mask, labels = ragged_batch(chain.bundle, 16, 6)
    before, _, _ = chain.run(adapter, ids, mask, labels)
    mask[-1] = 0
    ids[-1] = 0
    after, _, logits = chain.run(adapter, ids, mask, labels)
    assert torch.isfinite(logits).all()
    assert torch.equal(before[:-1], after[:-1])


def test_more_padding_changes_nothing_but_rounding(chain: Chain) -> None:
    adapter = random_adapter(chain.bundle, 7)
    ids, mask, labels = ragged_batch(chain.bundle, 16, 7)
    short, _, _ = chain.run(adapter, ids, mask, labels)
    wide_ids = torch.nn.functional.pad(ids, (0, 16))
    wide, _, _ = chain.run(adapter, wide_ids, torch.nn.functional.pad(mask, (0, 16)), labels)
    torch.testing.assert_close(short, wide, atol=TOLERANCE, rtol=0)


def test_gradient_agrees_with_projected_gradients(chain: Chain, tiny_source: Path) -> None:
    bundle = chain.bundle
    model = build(bundle.manifest, str(tiny_source))
    adapter = random_adapter(bundle, 8)
    model.load_adapter(adapter.numpy())
    ids, mask, labels = ragged_batch(bundle, 16, 8)
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0])
    loss, gradient = model.gradient(ArrayBatch(ids.numpy(), mask.numpy(), labels.numpy(), weights.numpy()))
    program_loss, _, _ = chain.run(adapter, ids, mask, labels)
    assert loss == pytest.approx(float((program_loss * weights).sum() / 3), abs=TOLERANCE)
    epsilon, measured, wanted = 2e-3, [], []
    for seed in range(16):
        generator = torch.Generator().manual_seed(1000 + seed)
        z = torch.randint(0, 2, adapter.shape, generator=generator) * 2.0 - 1.0
        up, _, _ = chain.run(adapter + epsilon * z, ids, mask, labels)
        down, _, _ = chain.run(adapter - epsilon * z, ids, mask, labels)
        measured.append(float(((up - down).double() * weights).sum() / 3 / (2 * epsilon)))
        wanted.append(float(gradient.astype(np.float64) @ z.double().numpy()))
    error = np.linalg.norm(np.subtract(measured, wanted)) / np.linalg.norm(wanted)
    assert error < 1e-2


def test_the_heads_gradient_is_autograds(chain: Chain, tiny_source: Path) -> None:
    model = build(chain.bundle.manifest, str(tiny_source))
    adapter = random_adapter(chain.bundle, 9)
    model.load_adapter(adapter.numpy())
    ids, mask, labels = ragged_batch(chain.bundle, 24, 9)
    weights = np.array([1.0, 0.5, 2.0, 0.0])
    _, gradient = model.gradient(ArrayBatch(ids.numpy(), mask.numpy(), labels.numpy(), weights))
    column = torch.tensor(weights, dtype=torch.float32).view(-1, 1)
    targets = column * torch.nn.functional.one_hot(labels, len(chain.bundle.class_names))
    found = chain.head_gradient(adapter, ids, mask, column, targets)
    head = chain.bundle.layout.segment_tensors(chain.bundle.manifest.chain.segments)
    for tensor, by_tensor in zip(head, found, strict=True):
        wanted = torch.from_numpy(gradient[tensor.span]).view(tensor.shape) * weights.sum()
        torch.testing.assert_close(by_tensor, wanted, atol=1e-5, rtol=1e-4)
        assert wanted.abs().max() > 0.01


@pytest.mark.ci
def test_minilm_equals_transformers_and_peft(tmp_path: Path) -> None:
    bundle = write_bundle(Options(class_names=tuple("abcdefg")), tmp_path / "minilm")
    check_delegates(bundle)
    source = locate(DEFAULT_MODEL).folder
    # Larger than what training starts from (A has a deviation of 0.03, B is zero).
    check_against_references(Chain(bundle), source, [16, 64, 128], 0.05)
    check_rounding(Chain(bundle), source)


@pytest.mark.ci
def test_one_segment_and_first_token_pooling(tiny_source: Path, tmp_path: Path) -> None:
    options = Options(
        model=str(tiny_source), class_names=("no", "yes"), pooling="cls", segments=1, max_tokens=32,
        target_modules=("query", "key", "value", "dense"),
    )  # fmt: skip
    bundle = write_bundle(options, tmp_path / "one")
    assert [method.name for method in bundle.manifest.chain.methods] == [
        "embed",
        "segment_0",
        "head",
        "head_gradient",
    ]
    # First-token pooling reads one hidden state: there is no sum over the mask.
    chain = Chain(bundle)
    adapter = random_adapter(bundle, 3, 0.1)
    ids, mask, labels = ragged_batch(bundle, 24, 3)
    loss, _, logits = chain.run(adapter, ids, mask, labels)
    wanted_loss, wanted_logits = eager(bundle, tiny_source, adapter, ids, mask, labels)
    torch.testing.assert_close(logits, wanted_logits, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(loss, wanted_loss, atol=TOLERANCE, rtol=0)
