"""Tasks: programs compute what transformers' language models do, and gradients agree with the core's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cloud_service.peft_export import export_peft
from device_runtime.bundle import Bundle
from device_runtime.directions import Direction
from device_runtime.engine import Engine
from device_runtime.errors import BundleError, OptionError
from device_runtime.local_update import Batch
from device_runtime.text import Tokenizer
from device_runtime.zo.direction import Direction as Reference
from device_runtime.zo.direction import realised, rounded
from export.model import Model, build
from export.tasks.pooling import Pooling
from export.writer import Options, write_bundle
from tests.device_runtime.streamed import streamed
from tests.export.chain import Chain
from tests.export.language_models import LANGUAGE_MODELS, eager_model, save_language_model
from tests.export.reference import eager, ragged_batch, random_adapter

TOLERANCE = 1e-4
TEXTS = (
    "a gripping film", "it never comes to life and the jokes are older than the people who tell them",
    "warm, funny and wise", "no",
)  # fmt: skip
TEMPLATES = {
    "bert": "{text} It was {mask} .",
    "llama": "Review: {text} It was",
    "llama-tied": "{text} so it is",
}


def label_words_bundle(name: str, folder: Path, side: str, **changes: object) -> tuple[Bundle, Path]:
    source = save_language_model(name, folder / "model", side)
    options = {
        "model": str(source), "task": "label_words", "class_names": ("bad", "good"), "rank": 4,
        "label_words": ("terrible", "great"), "template": TEMPLATES[name], "max_tokens": 24,
        "batch_examples": 4, "target_modules": LANGUAGE_MODELS[name][2], **changes,
    }  # fmt: skip
    return write_bundle(Options(**options), folder / "bundle"), source  # type: ignore[arg-type]


def predicted_place(bundle: Bundle, row: torch.Tensor, real: torch.Tensor) -> int:
    """Where a reader of the row alone would look: the mask token, or the last real token."""
    masks = (row == 103).nonzero()
    return int(masks[0] if len(masks) else real.nonzero()[-1])


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("bert", "right"),
        pytest.param("llama", "left", marks=pytest.mark.ci),
        pytest.param("bert", "left", marks=pytest.mark.long),
        pytest.param("llama", "right", marks=pytest.mark.long),
        pytest.param("llama-tied", "left", marks=pytest.mark.long),
    ],
)
def test_label_words_are_the_language_models_own_logits(name: str, side: str, tmp_path: Path) -> None:
    bundle, source = label_words_bundle(name, tmp_path, side)
    assert bundle.layout.segments == tuple(range(bundle.manifest.chain.segments))  # the head is frozen
    head = bundle.manifest.chain.methods[-1]
    assert (head.name, head.delegates) == ("head", 1)
    chain, model = Chain(bundle), build(bundle.manifest, str(source))
    tokens = Tokenizer(bundle.tokenizer_path, bundle.manifest.text)
    labels = torch.tensor([1, 0, 1, 0])
    words = list(bundle.manifest.task.label_word_ids)
    for seed, texts in enumerate((TEXTS, [text * 9 for text in TEXTS], TEXTS[::-1])):
        adapter = random_adapter(bundle, seed)
        batch = tokens.encode(texts)
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        loss, count, logits = chain.run(adapter, ids, mask, labels)
        with torch.no_grad():
            wanted = eager_model(name, bundle, source, adapter)(input_ids=ids, attention_mask=mask).logits
        rows = [wanted[r, predicted_place(bundle, ids[r], mask[r]), words] for r in range(4)]
        unit = max(1.0, float(torch.stack(rows).std()))
        torch.testing.assert_close(logits, torch.stack(rows), atol=TOLERANCE * unit, rtol=0)
        wanted_loss = torch.nn.functional.cross_entropy(torch.stack(rows), labels, reduction="none")
        torch.testing.assert_close(loss, wanted_loss, atol=TOLERANCE * unit, rtol=0)
        assert count.tolist() == [1.0] * 4
        model.load_adapter(adapter.numpy())
        with torch.no_grad():
            torch.testing.assert_close(model(ids, mask, labels)[2], logits, atol=TOLERANCE * unit, rtol=0)
        changed, _, _ = chain.run(random_adapter(bundle, seed + 50), ids, mask, labels)
        assert (changed - loss).abs().max() > 100 * TOLERANCE
    check_core(bundle, model, labels.numpy())
    if side == "right" or name != "bert":  # BERT's positions count padding on the left, a lone text has none
        check_snippet(bundle, source, tmp_path / "peft")


def check_core(bundle: Bundle, model: Model, labels: NDArray[np.int64]) -> None:
    """The core's gradients, loss and count of right answers on the texts; the last of them counts nothing."""
    encoded = Tokenizer(bundle.tokenizer_path, bundle.manifest.text).encode(TEXTS)
    weights, engine = np.array([1.0, 1.0, 1.0, 0.0]), Engine(bundle)
    batch = Batch(encoded.input_ids, encoded.attention_mask, labels, weights)
    check_projected_gradients(bundle, engine, model, batch)
    right = int(((engine.logits(batch).argmax(-1) == labels) * weights).sum())
    assert engine.evaluate([batch])[1:] == (3.0, right)


def check_snippet(bundle: Bundle, source: Path, folder: Path) -> None:
    """What is exported for transformers and PEFT scores texts as the core does, long ones too."""
    engine, adapter = Engine(bundle), on_grid(bundle, random_adapter(bundle, 7).numpy())
    engine.adapter[:] = adapter
    export_peft(bundle, adapter, folder)
    scope: dict[str, Any] = {}
    exec((folder / "score.py").read_text(encoding="utf-8"), scope)
    texts = [*TEXTS, TEXTS[1] * 9]
    scored = scope["logits"](texts, str(source), str(folder)).numpy()
    own = np.array(list(engine.classify(texts)))
    assert np.abs(own - scored).max() < TOLERANCE * max(1.0, scored.std())


def check_projected_gradients(bundle: Bundle, engine: Engine, model: Model, batch: Batch) -> None:
    """The core's projected gradients along 16 directions against autograd's derivatives."""
    adapter = on_grid(bundle, random_adapter(bundle, 3, 0.1).numpy())
    engine.adapter[:] = adapter
    model.load_adapter(adapter)
    loss, gradient = model.gradient(batch)
    segments, epsilon = list(range(engine.head_segment + 1)), 2e-3
    directions = [Direction(seed, 1.0, [], segments) for seed in range(16)]
    measured = engine.measure([batch], directions, epsilon, segments)
    assert np.array_equal(engine.adapter, adapter)
    other = batch._replace(weights=batch.weights[::-1].copy())
    both = engine.measure([batch, other], directions, epsilon, segments)
    in_order = streamed(engine, [batch, other], directions, epsilon, segments).measurement
    assert np.array_equal(in_order.rho, both.rho)
    assert engine.evaluate([batch])[0] / engine.evaluate([batch])[1] == pytest.approx(loss, rel=1e-4)
    owned = tuple(bundle.layout.segments)
    steps = [
        rounded(Reference(seed=seed, active_segments=owned), bundle.layout, epsilon) for seed in range(16)
    ]
    wanted = [float(gradient.astype(np.float64) @ realised(k, bundle.layout, epsilon)) for k in steps]
    assert np.linalg.norm(measured.rho - wanted) < 1e-2 * np.linalg.norm(wanted)


def on_grid(bundle: Bundle, values: NDArray[np.float32]) -> NDArray[np.float32]:
    for tensor in bundle.layout.tensors:
        values[tensor.span] = np.rint(values[tensor.span] * 2.0**tensor.exponent) / 2.0**tensor.exponent
    return values + np.float32(0.0)


@pytest.mark.parametrize(
    ("name", "asked", "pooling"),
    [
        pytest.param("llama", "", "last", marks=pytest.mark.ci),
        pytest.param("bert", "cls", "cls", marks=pytest.mark.long),
    ],
)
def test_texts_are_classified_by_one_token(name: str, asked: str, pooling: str, tmp_path: Path) -> None:
    source = save_language_model(name, tmp_path / "model", "left")
    options = Options(
        class_names=("red", "green", "blue"), model=str(source), pooling=asked, rank=4, max_tokens=24,
        batch_examples=4, target_modules=LANGUAGE_MODELS[name][2],
    )  # fmt: skip
    bundle = write_bundle(options, tmp_path / "bundle")
    assert bundle.manifest.task.pooling == pooling
    assert bundle.manifest.chain.methods[-1].delegates == 1
    chain = Chain(bundle)
    for seed, (tokens, side) in enumerate([(16, "left"), (24, "right"), (2, "left")]):
        adapter = random_adapter(bundle, seed)
        batch = ragged_batch(bundle, tokens, seed, side)
        loss, _, logits = chain.run(adapter, *batch)
        wanted_loss, wanted = eager(bundle, source, adapter, *batch)
        unit = max(1.0, float(wanted.std()))
        torch.testing.assert_close(logits, wanted, atol=TOLERANCE * unit, rtol=0)
        torch.testing.assert_close(loss, wanted_loss, atol=TOLERANCE * unit, rtol=0)


@pytest.mark.parametrize("side", ["right", "left"])
def test_pooling_by_place(side: str) -> None:
    hidden = torch.randn(3, 6, 4)
    lengths = [6, 3, 1]
    mask = torch.zeros(3, 6)
    for row, length in enumerate(lengths):
        mask[row, slice(0, length) if side == "right" else slice(6 - length, 6)] = 1.0
    first = [0, 0, 0] if side == "right" else [6 - length for length in lengths]
    for offset in (0, 2):
        head, tail = Pooling("cls", offset)(hidden, mask), Pooling("last", offset)(hidden, mask)
        for row, length in enumerate(lengths):
            nothing = torch.zeros(4)  # a text shorter than the place asked for
            begin, end = first[row] + offset, first[row] + length - 1 - offset
            assert torch.equal(head[row, 0], hidden[row, begin] if offset < length else nothing)
            assert torch.equal(tail[row, 0], hidden[row, end] if offset < length else nothing)
    empty = Pooling("last")(hidden, torch.zeros(3, 6))
    assert not empty.any()


def test_what_cannot_be_label_words_is_refused(tmp_path: Path) -> None:
    refusals: list[tuple[str, dict[str, Any], type[Exception], str]] = [
        (
            "bert",
            {"label_words": ("terrible", "flabbergasting")},
            OptionError,
            "flabbergasting.* tokens of this",
        ),
        ("bert", {"label_words": ("great", "Great")}, OptionError, "the same token"),
        ("bert", {"label_words": ("great",)}, OptionError, "1 for 2 classes"),
        ("bert", {"template": "{text} It was"}, OptionError, "{mask} once"),
        ("bert", {"pooling": "mean"}, OptionError, "--pooling is of"),
        ("bert", {"adapter": "head", "target_modules": ("auto",)}, OptionError, "nothing to train"),
        ("llama", {"template": "{text} It was {mask}"}, OptionError, "no {mask}"),
    ]
    for number, (name, changes, error, says) in enumerate(refusals):
        with pytest.raises(error, match=says):
            label_words_bundle(name, tmp_path / str(number), "right", **changes)
    options = Options(class_names=("bad", "good"), task="label_words", label_words=("bad", "good"))
    with pytest.raises(BundleError, match="AutoModelForMaskedLM"):  # MiniLM was saved without its head
        write_bundle(options, tmp_path / "minilm")


PAIRS = (
    ("what is the capital of france?", "paris"),
    ("say it again", "it is paris, the capital of france and a city on the river seine"),
    ("a question that goes on and on and on and on and on and on for very long", "no"), ("hi", "hello " * 30),
)  # fmt: skip


def causal_bundle(name: str, folder: Path, side: str) -> tuple[Bundle, Path]:
    source = save_language_model(name, folder / "model", side)
    options = Options(
        class_names=(), model=str(source), task="causal_lm", rank=4, template="question: {text} answer:",
        max_tokens=24, batch_examples=4, target_modules=LANGUAGE_MODELS[name][2],
    )  # fmt: skip
    return write_bundle(options, folder / "bundle"), source


@pytest.mark.parametrize(
    ("name", "side"),
    [
        pytest.param("llama", "right", marks=pytest.mark.ci),
        pytest.param("llama", "left", marks=pytest.mark.long),
        pytest.param("llama-tied", "right", marks=pytest.mark.long),
    ],
)
def test_only_responses_are_learned(name: str, side: str, tmp_path: Path) -> None:
    """The core's loss is transformers' with labels of -100 outside the response; so are its gradients."""
    bundle, source = causal_bundle(name, tmp_path, side)
    head = bundle.manifest.chain.methods[-1]
    assert (head.name, head.delegates, bundle.manifest.chain.head_tokens) == ("head", 1, 32)
    assert head.planned_bytes < 2.2 * 32 * bundle.manifest.chain.vocabulary * 4
    encoded = Tokenizer(bundle.tokenizer_path, bundle.manifest.text).encode_responses(PAIRS)
    assert (encoded.targets != -100).sum() > 32  # more than one run of the head
    ids, mask = torch.from_numpy(encoded.input_ids), torch.from_numpy(encoded.attention_mask)
    labels = torch.full_like(ids, -100)  # transformers shifts them itself
    labels[:, 1:] = torch.from_numpy(encoded.targets)[:, :-1]
    engine, model = Engine(bundle), build(bundle.manifest, str(source))
    for seed in range(2):
        adapter = on_grid(bundle, random_adapter(bundle, seed, 0.1).numpy())
        reference = eager_model(name, bundle, source, torch.from_numpy(adapter))
        engine.adapter[:] = adapter
        model.load_adapter(adapter)
        total = 0.0
        for rows in (range(4), [0], [1], [3]):
            weights = np.array([1.0 if row in rows else 0.0 for row in range(4)])
            batch = Batch(encoded.input_ids, encoded.attention_mask, encoded.targets, weights)
            chosen = torch.where(torch.tensor(weights)[:, None] > 0, labels, -100)
            with torch.no_grad():
                wanted = reference(input_ids=ids, attention_mask=mask, labels=chosen)
            loss, count, correct = engine.evaluate([batch])
            assert count == (chosen != -100).sum()
            assert loss / count == pytest.approx(float(wanted.loss), rel=TOLERANCE)
            right = wanted.logits[:, :-1].argmax(-1) == chosen[:, 1:]
            assert correct == int(right.sum())
            assert float(model.loss(batch).detach()) == pytest.approx(float(wanted.loss), rel=TOLERANCE)
            total += loss
        assert total > 0.0
    batch = Batch(encoded.input_ids, encoded.attention_mask, encoded.targets, np.array([1.0, 1.0, 0.5, 0.0]))
    check_projected_gradients(bundle, engine, model, batch)


def test_a_causal_task_needs_a_causal_model(tmp_path: Path) -> None:
    source = save_language_model("bert", tmp_path / "model")
    with pytest.raises(OptionError, match="a masked one"):
        write_bundle(Options(class_names=(), model=str(source), task="causal_lm"), tmp_path / "bundle")
    with pytest.raises(OptionError, match="learns texts"):
        write_bundle(Options(class_names=("a", "b"), task="causal_lm"), tmp_path / "bundle")
