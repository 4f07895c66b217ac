"""ChainFed's loss on a real bundle with bottlenecks, whose program has auxiliary branches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.bundle import Bundle
from device_runtime.core import Batch as CoreBatch
from device_runtime.core import Direction
from device_runtime.directions import Direction as OneDirection
from device_runtime.engine import Engine
from device_runtime.examples import Example
from device_runtime.local_update import Batch, LocalTask, run_directions
from device_runtime.zo import direction as zo
from device_runtime.zo import spsa
from protos import federation_pb2 as pb

from .engines import random_engine
from .streamed import streamed

pytestmark = pytest.mark.ci
EPSILON = 1e-2
HEAD = 2
Float32 = NDArray[np.float32]


@pytest.fixture(scope="module")
def bundle(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from export.writer import Options, write_bundle

    options = Options(
        model=str(tiny_source), class_names=("no", "yes"), adapter="bottleneck", bottleneck=5, max_tokens=32,
        batch_examples=4,
    )  # fmt: skip
    return write_bundle(options, tmp_path_factory.mktemp("window") / "bundle")


@pytest.fixture
def engine(bundle: Bundle) -> Engine:
    return random_engine(bundle)


def batches_of(engine: Engine) -> list[Batch]:
    texts = ("a fine film", "dull", "the whale in the sea is blue", "no", "yes it is", "grass")
    examples = engine.example_set([Example(t, ("no", "yes")[len(t) % 2]) for t in texts])
    return examples.batches(range(len(texts)))


def core_batches(engine: Engine) -> list[CoreBatch]:
    return [CoreBatch(*batch) for batch in batches_of(engine)]


def branch(engine: Engine, hidden: Float32, k: int) -> Float32:
    """Segment k's bottlenecks by hand: h + up(gelu(down(h))), the attention's, then the output's."""
    import torch

    layout = engine.bundle.layout
    parts = {t.name: torch.from_numpy(engine.adapter[t.span].copy()).view(t.shape) for t in layout.tensors}
    x = torch.from_numpy(hidden)
    for place in ("attention.output.dense", "output.dense"):
        path = f"base_model.model.encoder.layer.{k}.{place}.adapter_"
        low = torch.nn.functional.gelu(x @ parts[f"{path}down.weight"].T + parts[f"{path}down.bias"])
        x = x + low @ parts[f"{path}up.weight"].T + parts[f"{path}up.bias"]
    return np.ascontiguousarray(x.numpy())


@pytest.mark.parametrize("exit_segment", [1, 2])
def test_the_loss_is_local_plus_weight_times_global(engine: Engine, exit_segment: int) -> None:
    given, core = batches_of(engine), engine._core
    local = core.evaluate(core_batches(engine), exit_segment)
    behind = []
    for batch in given:
        hidden = engine.hidden(batch, exit_segment)
        for k in range(exit_segment, HEAD):
            hidden = branch(engine, hidden, k)
        behind.append(CoreBatch(*batch._replace(hidden=hidden, first_segment=HEAD)))
    global_sum = core.evaluate(behind)[0]
    found = core.evaluate(core_batches(engine), exit_segment, 0.3)
    assert found[0] == pytest.approx(local[0] + 0.3 * global_sum, rel=1e-5)
    assert found[1:] == local[1:]
    assert (abs(global_sum - local[0]) > 1e-3) == (exit_segment == 1)


def test_the_branch_of_a_zero_adapter_is_the_identity(engine: Engine) -> None:
    engine.adapter[engine.bundle.layout.segment_slice(1)] = 0.0
    batches, core = core_batches(engine), engine._core
    local, weighed = core.evaluate(batches, 1), core.evaluate(batches, 1, 1.0)
    assert core.counters.auxiliary_runs == [0, 2]
    assert weighed == (2.0 * local[0], *local[1:])


def test_rho_equals_the_twin_and_the_branch_runs_once_a_window(engine: Engine) -> None:
    batches, core = core_batches(engine), engine._core
    before, layout = engine.adapter.copy(), engine.bundle.layout
    core.reset_counters()
    measured = core.measure(batches, [Direction(5), Direction(6)], EPSILON, [0, HEAD], 1, 0.5)
    assert core.counters.segment_runs == [2 * 4, 0, 2 * 2 * 4]
    assert core.counters.auxiliary_runs == [0, 2 * 4]
    assert engine.adapter.tobytes() == before.tobytes()
    assert engine.loaded_methods == ["embed", "segment_0", "auxiliary_1", "head"]

    def loss(adapter: Float32) -> float:
        core.adapter[:] = adapter
        loss_sum, count, _ = core.evaluate(batches, 1, 0.5)
        return loss_sum / count

    for rho, seed in zip(measured.rho, (5, 6), strict=True):
        direction = zo.Direction(seed, active_segments=(0, HEAD))
        assert rho == spsa.projected_gradient(loss, before.copy(), layout, direction, EPSILON)
    core.poison_arena(True)
    engine.adapter[:] = before
    again = core.measure(batches, [Direction(5), Direction(6)], EPSILON, [0, HEAD], 1, 0.5)
    assert again.rho.tobytes() == measured.rho.tobytes()


@pytest.mark.parametrize("active", [[0, HEAD], [HEAD]])
def test_streaming_order_gives_the_same_bits_and_runs_no_branch_twice(
    engine: Engine, active: list[int]
) -> None:
    batches, directions = batches_of(engine), [OneDirection(s, 1.0, [], active) for s in (5, 6, 7)]
    engine._core.reset_counters()
    whole = engine.measure(batches, directions, EPSILON, active, 1, 0.5)
    runs = engine._core.counters
    engine._core.reset_counters()
    in_order = streamed(engine, batches, directions, EPSILON, active, 1, 0.5).measurement
    assert in_order.rho.tobytes() == whole.rho.tobytes()
    assert engine._core.counters.auxiliary_runs == runs.auxiliary_runs
    assert engine._core.counters.segment_runs == runs.segment_runs


def test_a_task_with_a_weight(engine: Engine) -> None:
    rng, words = np.random.default_rng(1), ("sea", "whale", "film", "blue", "dull", "fine", "grass")
    drawn = dict.fromkeys(" ".join(rng.choice(words, 5)) for _ in range(60))
    examples = [Example(text, ("no", "yes")[i % 2]) for i, text in enumerate(drawn)]
    train = engine.private_examples(lambda names: examples).train

    def scalars(**ends: Any) -> list[float]:
        step = pb.Step(
            batch_seed=1, batch_examples=8, directions=[pb.Direction(seed=1, count=3, isotropic_scale=1)]
        )
        task = pb.DirectionsTask(epsilon=EPSILON, active_segments=[0, HEAD], steps=[step], **ends)
        return run_directions(LocalTask(task), engine, train, lambda: 0.0).scalars

    local, weighed = scalars(exit_segment=1), scalars(exit_segment=1, global_weight=0.5)
    assert not np.allclose(local, weighed, rtol=1e-3)
    assert not np.allclose(local, scalars(), rtol=1e-3)
    engine.adapter[engine.bundle.layout.segment_slice(1)] = 0.0
    assert np.allclose(scalars(exit_segment=1, global_weight=0.5), 1.5 * np.array(local), rtol=1e-4)
