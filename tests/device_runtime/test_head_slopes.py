"""Slopes along directions in the head, without differences; and what the disclosure budget keeps of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from device_runtime.budget import HEAD_SCALARS
from device_runtime.bundle import Bundle
from device_runtime.directions import Direction
from device_runtime.engine import Engine
from device_runtime.errors import DirectionBelowGrid, UnsupportedTask
from device_runtime.examples import Example
from device_runtime.local_update import Batch, LocalTask, run_directions
from device_runtime.private_examples import ExampleSet
from device_runtime.task_checks import check_exact
from device_runtime.zo import direction as zo
from protos import federation_pb2 as pb

pytestmark = pytest.mark.ci
CLASSES = tuple("abcdefgh")
EPSILON = 1e-2
WORDS = ("a", "fine", "film", "of", "the", "whale", "in", "sea", "is", "blue", "and", "dull", "grass")


@pytest.fixture(scope="module")
def bundle(one_layer: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from export.writer import Options, write_bundle

    options = Options(model=str(one_layer), class_names=CLASSES, max_tokens=32, batch_examples=4)
    return write_bundle(options, tmp_path_factory.mktemp("slopes") / "bundle")


@pytest.fixture
def engine(bundle: Bundle) -> Engine:
    return Engine(bundle)


def examples_of(engine: Engine, labels: str) -> ExampleSet:
    texts = [" ".join(WORDS[i % 7 : i % 7 + 2 + i % 5]) + f" {i}" for i in range(len(labels))]
    return engine.example_set([Example(text, label) for text, label in zip(texts, labels, strict=True)])


def noise(engine: Engine, count: int, first_seed: int = 0) -> list[Direction]:
    head = engine.head_segment
    return [Direction(first_seed + i, 1.0, [], [head], exact=True) for i in range(count)]


def realised(bundle: Bundle, seed: int) -> np.ndarray:
    head = bundle.manifest.chain.segments
    named = zo.Direction(seed, active_segments=(head,))
    z = zo.realised(zo.rounded(named, bundle.layout, EPSILON), bundle.layout, EPSILON)
    return z[bundle.layout.segment_slice(head)]


def test_slopes_are_autograds_along_the_rounded_directions(
    engine: Engine, bundle: Bundle, one_layer: Path
) -> None:
    from export.model import build

    batches = examples_of(engine, "abcdefgh"[::-1]).batches(range(7))  # the last batch has a padding row
    before = engine.adapter.copy()
    found = engine.slopes(batches, noise(engine, 16), EPSILON)
    assert np.array_equal(engine.adapter, before)
    model = build(bundle.manifest, str(one_layer))
    model.load_adapter(engine.adapter)
    gradients = [model.gradient(batch)[1].astype(np.float64) for batch in batches]
    head = bundle.layout.segment_slice(engine.head_segment)
    mean = (4 * gradients[0] + 3 * gradients[1])[head] / 7
    wanted = [mean @ realised(bundle, seed) for seed in range(16)]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    differences = engine.measure(batches, noise(engine, 16), EPSILON, [engine.head_segment]).rho
    assert np.linalg.norm(differences - found) < 1e-2 * np.linalg.norm(found)


def test_a_thousand_directions_run_the_head_once(engine: Engine) -> None:
    examples = examples_of(engine, "abcd")
    (batch,) = examples.batches(range(4))
    entering = batch._replace(
        hidden=engine.hidden(batch, engine.head_segment), first_segment=engine.head_segment
    )
    engine.slopes([entering], noise(engine, 1), EPSILON)
    runs = sum(engine.work.runs)
    rho = engine.slopes([entering], noise(engine, 1000), EPSILON)
    assert sum(engine.work.runs) == runs + 1
    assert np.array_equal(rho[:20], engine.slopes([batch], noise(engine, 20), EPSILON))
    assert len(np.unique(rho)) == 1000


def test_a_task_may_mix_both_kinds(engine: Engine) -> None:
    head = engine.head_segment
    task = pb.DirectionsTask(epsilon=EPSILON, active_segments=[0, head])
    step = task.steps.add(batch_seed=5, batch_examples=8)
    step.directions.add(seed=1, count=2, isotropic_scale=1.0)
    step.directions.add(seed=9, count=3, isotropic_scale=1.0, active_segments=[head], exact=True)
    step.directions.add(seed=4, count=1, isotropic_scale=1.0)
    examples = examples_of(engine, "abcdefgh")
    scalars = run_directions(LocalTask(task), engine, examples, lambda: 0.0).scalars
    del step.directions[1]
    plain = run_directions(LocalTask(task), engine, examples, lambda: 0.0).scalars
    assert [scalars[i] for i in (0, 1, 5)] == plain
    seeds = [Direction(seed, 1.0, [], [head]) for seed in (9, 10, 11)]
    order = [7, 6, 5, 4, 3, 2, 1, 0]
    differences = engine.measure(examples.batches(order), seeds, EPSILON, [head]).rho
    np.testing.assert_allclose(scalars[2:5], differences, rtol=2e-2, atol=1e-4)


def test_the_budget_keeps_labels_that_unbudgeted_scalars_give_away(engine: Engine, bundle: Bundle) -> None:
    """Who knows as many slopes as the head has parameters knows the bias gradient: it counts labels."""
    head = bundle.layout.segment_slice(engine.head_segment)
    engine.adapter[head] = 0.0  # every class is as likely: the gradient by bias c is 1/C - count_c / B
    labels = "aaacdddh"
    batches = examples_of(engine, labels).batches(range(8))
    parameters = head.stop - head.start

    def counts(scalars: int) -> list[int]:
        seeds = range(100, 100 + scalars)
        rho = engine.slopes(batches, noise(engine, scalars, 100), EPSILON)
        z = np.array([realised(bundle, seed) for seed in seeds])
        gradient = np.linalg.lstsq(z, rho, rcond=None)[0]
        by_bias = next(t for t in bundle.layout.tensors if t.name.endswith("classifier.bias"))
        slopes = gradient[by_bias.offset - head.start :][: len(CLASSES)]
        return [round(8 * (1 / len(CLASSES) - slope)) for slope in slopes]

    truth = [labels.count(name) for name in CLASSES]
    assert counts(parameters) == truth
    assert parameters > 4 * HEAD_SCALARS
    assert counts(HEAD_SCALARS) != truth


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda task: setattr(task, "global_weight", 0.5), "global_weight 0"),
        (lambda task: task.active_segments.insert(0, 0), "outside the head"),
        (lambda task: task.steps[0].directions[0].guides.add(guide_sha256=b"g"), "noise alone"),
    ],
)
def test_what_is_refused(engine: Engine, change: Callable[[pb.DirectionsTask], None], words: str) -> None:
    task = pb.DirectionsTask(epsilon=EPSILON, active_segments=[1])
    task.steps.add(batch_seed=5, batch_examples=8).directions.add(seed=1, count=2, exact=True)
    check_exact(task, 1, has_head_gradient=True)
    with pytest.raises(UnsupportedTask, match="head_gradient"):
        check_exact(task, 1, has_head_gradient=False)
    change(task)
    with pytest.raises(UnsupportedTask, match=words):
        check_exact(task, 1, has_head_gradient=True)


def test_the_grid_rules_hold_here_too(engine: Engine) -> None:
    batches: list[Batch] = examples_of(engine, "abcd").batches(range(4))
    with pytest.raises(DirectionBelowGrid, match="use epsilon"):
        engine.slopes(batches, noise(engine, 1), 3e-7)
    with pytest.raises(UnsupportedTask, match="head alone"):
        engine.slopes(batches, [Direction(1, 1.0, [], [0, 1])], EPSILON)
