"""Quantised programs: one delegate a segment, the same bytes each time, true projected gradients."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from device_runtime.bundle import MANIFEST_NAME, Bundle, parse_manifest
from device_runtime.engine import Engine
from device_runtime.errors import BundleError, ExamplesError, OptionError
from device_runtime.text import Tokenizer
from export.fidelity import EPSILONS, MIN_CORRELATION, Point, best, calibration_examples, choose
from export.model import Model, build
from export.precision import WordTable, quantised
from export.writer import Options, describe, write_bundle
from tests.export.language_models import LANGUAGE_MODELS, save_language_model
from tests.export.test_program import EMBED_OPERATORS, GRADIENT_OPERATORS, HEAD_OPERATORS

CALIBRATION = Path(__file__).parents[2] / "cooperllm" / "data" / "public.tsv"


@pytest.fixture(scope="module")
def options(one_layer: Path) -> Options:
    return Options(
        model=str(one_layer), class_names=("red", "green", "blue"), rank=4, max_tokens=32, batch_examples=4,
        precision="int8", calibration=CALIBRATION, fidelity_directions=64,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(options: Options, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(options, tmp_path_factory.mktemp("int8") / "bundle")


def check_delegates(bundle: Bundle, embedding: str) -> None:
    embed = EMBED_OPERATORS - {"aten::embedding"} | {f"quantized_decomposed::{embedding}"}
    allowed = {"embed": embed, "head": HEAD_OPERATORS, "head_gradient": GRADIENT_OPERATORS}
    for method in bundle.manifest.chain.methods:
        outside = {name.split(".")[0] for name in method.undelegated_operators}
        assert method.delegates == 1, method.name
        assert outside == allowed.get(method.name, set())


def test_int8_is_one_delegate_a_segment_and_small(measured: Bundle) -> None:
    assert measured.manifest.precision == "int8"
    check_delegates(measured, "embedding_byte")
    words = 30522 * 32  # nearly all of the model: a byte each, and a scale for 32 of them
    assert words < measured.program_path.stat().st_size < 1.35 * words


def test_the_measured_curve_finds_an_epsilon_where_rho_is_true(measured: Bundle) -> None:
    fidelity = measured.manifest.fidelity
    assert (fidelity.directions, fidelity.examples) == (64, 4)
    assert [point.epsilon for point in fidelity.points] == list(EPSILONS)
    smaller = {p.epsilon: min(p.initial_correlation, p.moved_correlation) for p in fidelity.points}
    assert smaller[fidelity.epsilon] == max(smaller.values()) >= MIN_CORRELATION
    # Rounding spoils the smallest epsilon, curvature the largest.
    assert smaller[EPSILONS[0]] < smaller[fidelity.epsilon] > smaller[EPSILONS[-1]]


def test_the_quantised_program_is_near_the_float_model(measured: Bundle, one_layer: Path) -> None:
    texts = ["Play some music.", "Call the dentist and ask about Friday.", "Lights off", "What is next?"]
    tokens = Tokenizer(measured.tokenizer_path, measured.manifest.text).encode(texts)
    model = build(measured.manifest, str(one_layer))
    model.load_adapter(measured.adapter)
    with torch.no_grad():
        ids, mask = torch.from_numpy(tokens.input_ids), torch.from_numpy(tokens.attention_mask)
        wanted = model(ids, mask, torch.zeros(4, dtype=torch.int64))[2].numpy()
    difference = np.abs(np.array(list(Engine(measured).classify(texts))) - wanted).max()
    assert 0.0 < difference < 0.1 * wanted.std()


def test_choose_takes_the_fastest_that_is_true_enough() -> None:
    def curve(*correlations: float) -> list[Point]:
        return [Point(e, c, 1.0) for e, c in zip(EPSILONS, correlations, strict=False)]

    curves = {"int4": curve(0.5, 0.98), "int8": curve(0.9, 0.995, 0.2), "fp32": curve(1.0, 0.9)}
    times = {"int4": 1.0, "int8": 2.0, "fp32": 3.0}
    assert choose(curves, times) == "int8"
    assert choose(curves, {**times, "int8": 4.0}) == "fp32"
    assert choose({**curves, "int4": curve(0.99)}, times) == "int4"
    assert choose({"int4": curve(0.5), "int8": curve(0.7)}, times) == "int8"


def test_the_best_point_counts_the_worse_adapter() -> None:
    points = [Point(1e-3, 1.0, 0.5), Point(1e-2, 0.9, 0.9), Point(1e-1, 0.9, 0.95)]
    assert best(points).epsilon == 1e-2


@pytest.mark.parametrize(("precision", "largest"), [("int8", 127), ("int4", 7)])
def test_a_word_table_rounds_to_half_a_step(precision: str, largest: int) -> None:
    words = torch.randn(5000, 64, generator=torch.Generator().manual_seed(1))
    words[3] = 0.0
    table = WordTable(words, precision)
    ids = torch.arange(5000).view(10, 500)
    group = words.view(5000, -1, 32 if precision == "int4" else 64)
    step = (group.abs().amax(-1, keepdim=True) / largest).expand(group.shape).reshape(words.shape)
    error = (table(ids).view(words.shape) - words).abs()
    assert (error <= step / 2 * 1.0001).all()
    assert error.max() > 0.4 * step.max()
    stored = table.values.nbytes + table.scales.nbytes
    assert stored < words.nbytes / (3.5 if precision == "int8" else 6)


def test_what_is_differentiated_stays_float32(options: Options) -> None:
    _, network, start, _ = describe(options)
    module = network.segment(0)
    before = dict(module.named_buffers())
    with quantised(module, "int4"):
        inside = dict(module.named_buffers())
        changed = {name for name in before if inside[name] is not before[name]}
        assert changed == {name for name in before if name.endswith("weight") and before[name].dim() == 2}
    assert all(after is before[name] for name, after in module.named_buffers())
    with quantised(network.embed(), "int8"):
        pass
    Model(network, start.layout)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"precision": "int3"}, "precision 'int3'"),
        ({"precision": "auto", "fidelity_directions": 0}, "precision 'auto'"),
        ({"precision": "auto", "calibration": None}, "precision 'auto'"),
        ({"fidelity_directions": 1}, "--fidelity-directions"),
    ],
)
def test_options_that_make_no_sense(options: Options, tmp_path: Path, change: dict, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        write_bundle(dataclasses.replace(options, **change), tmp_path / "out")


def test_calibration_labels_take_turns_where_they_are_not_classes(tmp_path: Path) -> None:
    file = tmp_path / "texts.tsv"
    file.write_text("text\tlabel\none\tred\ntwo\tother\nthree\tother\nfour\tblue\n")
    found = calibration_examples(file, ["red", "green", "blue"], 3)
    assert [(e.text, e.label) for e in found] == [("one", "red"), ("two", "green"), ("three", "blue")]
    assert [e.label for e in calibration_examples(file, [], 3)] == ["red", "other", "other"]
    with pytest.raises(ExamplesError):
        calibration_examples(tmp_path / "none.tsv", ["a"], 2)


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "int3"},
        {"fidelity": {"directions": 64, "epsilon": 0.5, "points": [{"epsilon": 0.1}]}},
        {"fidelity": {"epsilon": 0.1, "points": [{"epsilon": 0.1, "initial_correlation": 1.5}]}},
        {"fidelity": {"epsilon": 0.1, "points": [{"epsilon": 0.1, "moved_correlation": "NaN"}]}},
        {"fidelity": {"epsilon": 0, "points": [{"epsilon": 0}]}},
    ],
)
def test_a_reader_refuses_facts_that_make_no_sense(tiny_bundle: Bundle, change: dict) -> None:
    fields = json.loads((tiny_bundle.folder / MANIFEST_NAME).read_text())
    with pytest.raises(BundleError, match=r"precision|fidelity"):
        parse_manifest(json.dumps({**fields, **change}).encode(), "there")


@pytest.mark.ci
def test_the_same_quantised_export_gives_the_same_bundle(
    options: Options, measured: Bundle, tmp_path: Path
) -> None:
    assert write_bundle(options, tmp_path / "again").sha256 == measured.sha256


@pytest.mark.ci
def test_int4_is_one_delegate_a_segment_and_smallest(
    options: Options, measured: Bundle, tmp_path: Path
) -> None:
    plain = dataclasses.replace(options, precision="int4", fidelity_directions=0)
    bundle = write_bundle(plain, tmp_path / "int4")
    check_delegates(bundle, "embedding_4bit")
    assert not bundle.manifest.HasField("fidelity")
    assert bundle.program_path.stat().st_size < 0.7 * measured.program_path.stat().st_size
    engine = Engine(bundle)
    batch_logits = np.array(list(engine.classify(["Play some music.", "Lights off"])))
    assert np.isfinite(batch_logits).all()
    assert np.ptp(batch_logits) > 0.0


@pytest.mark.ci
def test_a_language_models_fidelity_is_measured_on_responses(tmp_path: Path) -> None:
    source = save_language_model("llama", tmp_path / "model", "right")
    asked = Options(
        class_names=(), model=str(source), task="causal_lm", rank=4, template="question: {text} answer:",
        max_tokens=24, batch_examples=4, segments=1, calibration=CALIBRATION, fidelity_directions=8,
        target_modules=LANGUAGE_MODELS["llama"][2],
    )  # fmt: skip
    fidelity = write_bundle(asked, tmp_path / "bundle").manifest.fidelity
    assert (fidelity.directions, fidelity.examples) == (8, 4)
    assert max(point.moved_correlation for point in fidelity.points) > 0.99


@pytest.mark.ci
def test_auto_takes_a_precision_that_is_true(options: Options, tmp_path: Path) -> None:
    lines: list[str] = []
    chosen = write_bundle(
        dataclasses.replace(options, precision="auto"), tmp_path / "auto", note=lines.append
    )
    fidelity = chosen.manifest.fidelity
    points = [Point(p.epsilon, p.initial_correlation, p.moved_correlation) for p in fidelity.points]
    assert best(points).smaller >= MIN_CORRELATION
    assert [line.split()[0] for line in lines] == ["int4:", "int8:", "fp32:", "precision"]
    assert lines[-1] == f"precision {chosen.manifest.precision}"
    assert [path.name for path in tmp_path.iterdir()] == ["auto"]
