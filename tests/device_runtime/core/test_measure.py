"""The core's local update against the slow twin in NumPy: equal bit for bit, given the same losses."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.core import Batch, Core, CoreError, Direction
from device_runtime.zo import direction as zo
from device_runtime.zo import spsa

from .conftest import Toy

EPSILON = 1e-3
ALL = [0, 1, 2]


def bits(values: NDArray[np.generic]) -> bytes:
    return values.tobytes()


def twin_loss(core: Core, batches: list[Batch]) -> spsa.Loss:
    def loss(adapter: NDArray[np.float32]) -> float:
        core.adapter[:] = adapter
        loss_sum, count, _ = core.evaluate(batches)
        return loss_sum / count

    return loss


def guide_of(toy: Toy, segments: list[int], seed: int) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).normal(scale=0.05, size=toy.layout.parameters).astype(np.float32)
    for segment in set(toy.layout.segments) - set(segments):
        values[toy.layout.segment_slice(segment)] = 0
    return values


def set_guide(toy: Toy, index: int, values: NDArray[np.float32], segments: list[int]) -> None:
    for segment in segments:
        toy.core.set_guide(index, segment, values[toy.layout.segment_slice(segment)])


@pytest.mark.parametrize("active", [ALL, [1, 2], [2], [0, 2]])
def test_rho_equals_the_twin(toy: Toy, active: list[int]) -> None:
    batches = [toy.batch(1), toy.batch(2, tokens=16), toy.batch(3, tokens=4)]
    before = toy.core.adapter.copy()
    measured = toy.core.measure(batches, [Direction(seed) for seed in (1, 2**64 - 1, 77)], EPSILON, active)
    assert bits(toy.core.adapter) == bits(before)
    for rho, seed in zip(measured.rho, (1, 2**64 - 1, 77), strict=True):
        direction = zo.Direction(seed, active_segments=tuple(active))
        loss = twin_loss(toy.core, batches)
        assert rho == spsa.projected_gradient(loss, before.copy(), toy.layout, direction, EPSILON)
        assert rho != 0.0


def test_rho_with_scale_guides_and_own_segments_equals_the_twin(toy: Toy) -> None:
    scale = np.random.default_rng(5).uniform(0.5, 2.0, toy.layout.parameters).astype(np.float32)
    first, second = guide_of(toy, ALL, 6), guide_of(toy, [1], 7)
    toy.core.set_scale(scale)
    set_guide(toy, 0, first, ALL)
    set_guide(toy, 1, second, [1])
    before = toy.core.adapter.copy()
    batches = [toy.batch(8)]
    ours = Direction(9, 0.7, [(1, -2.0), (0, 0.25)], [0, 1])
    theirs = zo.Direction(9, 0.7, scale, (zo.Guide(second, -2.0), zo.Guide(first, 0.25)), (0, 1))
    measured = toy.core.measure(batches, [ours, Direction(10)], EPSILON, ALL)
    loss = twin_loss(toy.core, batches)
    assert measured.rho[0] == spsa.projected_gradient(loss, before.copy(), toy.layout, theirs, EPSILON)
    plain = zo.Direction(10, scale=scale)
    assert measured.rho[1] == spsa.projected_gradient(loss, before.copy(), toy.layout, plain, EPSILON)


def test_padding_rows_count_nothing(toy: Toy) -> None:
    padded = toy.batch(1, weights=(1.0, 1.0, 1.0, 0.0))
    counted = toy.batch(1, weights=(1.0, 1.0, 1.0, 1.0))
    assert toy.core.evaluate([padded])[1] == 3.0
    assert toy.core.evaluate([counted])[1] == 4.0
    direction = [Direction(1)]
    rho = toy.core.measure([padded], direction, EPSILON, ALL).rho
    assert rho != toy.core.measure([counted], direction, EPSILON, ALL).rho


def test_evaluate_agrees_with_the_logits(toy: Toy) -> None:
    labels = np.array([0, 1, 2, 0])
    ids, mask = np.arange(32).reshape(4, 8), np.ones((4, 8), np.int64)
    batch = Batch(ids, mask, labels, np.ones(4))
    logits = toy.core.logits(batch).astype(np.float64)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    losses = -np.log((shifted / shifted.sum(1, keepdims=True))[np.arange(4), labels])
    loss_sum, count, correct = toy.core.evaluate([batch])
    assert loss_sum == pytest.approx(losses.sum(), rel=1e-5)
    assert (count, correct) == (4.0, int((logits.argmax(1) == labels).sum()))


def test_update_equals_the_twin(toy: Toy) -> None:
    scale = np.random.default_rng(5).uniform(0.5, 2.0, toy.layout.parameters).astype(np.float32)
    guide = guide_of(toy, [0, 2], 6)
    toy.core.set_scale(scale)
    set_guide(toy, 0, guide, [0, 2])
    expected = toy.core.adapter.copy()
    ours = [Direction(1), Direction(2, 0.5, [(0, 1.5)], [2])]
    theirs = (zo.Direction(1, scale=scale), zo.Direction(2, 0.5, scale, (zo.Guide(guide, 1.5),), (2,)))
    step = spsa.Update(EPSILON, 99, theirs, (1e-4, -3e-4), (zo.Guide(guide, 0.1),), (0, 2))
    clamped = spsa.apply_update(expected, toy.layout, step)
    assert toy.core.update(EPSILON, 99, [0, 2], ours, [1e-4, -3e-4], [(0, 0.1)]) == clamped
    assert bits(toy.core.adapter) == bits(expected)


def test_an_update_that_is_refused_writes_nothing(toy: Toy) -> None:
    guide = np.zeros(toy.layout.parameters, np.float32)
    guide[-1] = np.inf  # in the last tensor: everything before it would have been written
    set_guide(toy, 0, guide, ALL)
    before = toy.core.adapter.copy()
    with pytest.raises(CoreError) as refused:
        toy.core.update(EPSILON, 1, ALL, [Direction(1)], [1.0], [(0, 1.0)])
    assert refused.value.status == "NOT_FINITE"
    assert bits(toy.core.adapter) == bits(before)


def test_measuring_does_not_depend_on_what_methods_leave_behind(toy: Toy) -> None:
    batches, directions = [toy.batch(1), toy.batch(2, tokens=16)], [Direction(1), Direction(2)]
    expected = toy.core.measure(batches, directions, EPSILON, ALL)
    logits = toy.core.logits(batches[0])
    toy.core.poison_arena(True)
    assert bits(toy.core.measure(batches, directions, EPSILON, ALL).rho) == bits(expected.rho)
    assert bits(toy.core.logits(batches[0])) == bits(logits)


def test_a_failure_in_the_middle_restores_the_adapter(toy: Toy) -> None:
    outside = Batch(np.full((4, 8), 10_000), np.ones((4, 8), np.int64), np.zeros(4, np.int64), np.ones(4))
    before = toy.core.adapter.copy()
    with pytest.raises(CoreError) as failed:  # in the second batch, with a direction still in place
        toy.core.measure([toy.batch(1), outside], [Direction(1), Direction(2)], EPSILON, ALL)
    assert failed.value.status == "PROGRAM_FAILED"
    assert bits(toy.core.adapter) == bits(before)


def test_a_loss_that_is_not_finite_restores_the_adapter(toy: Toy) -> None:
    toy.core.adapter[toy.layout.segment_slice(2)] = np.inf
    before = toy.core.adapter.copy()
    with pytest.raises(CoreError) as failed:
        toy.core.measure([toy.batch(1)], [Direction(1)], EPSILON, [0, 1])
    assert failed.value.status == "LOSS_NOT_FINITE"
    assert bits(toy.core.adapter) == bits(before)


def test_stop_from_another_thread(toy: Toy) -> None:
    before = toy.core.adapter.copy()
    batches = [toy.batch(seed, tokens=16) for seed in range(50)]
    directions = [Direction(seed) for seed in range(2000)]
    watcher = threading.Timer(0.2, toy.core.stop)  # runs only if measure() lets go of the GIL
    start = time.monotonic()
    watcher.start()
    with pytest.raises(CoreError) as stopped:
        toy.core.measure(batches, directions, EPSILON, ALL)
    assert stopped.value.status == "STOPPED"
    assert time.monotonic() - start < 3.0
    assert bits(toy.core.adapter) == bits(before)
    with pytest.raises(CoreError):
        toy.core.evaluate(batches)
    toy.core.resume()
    assert toy.core.measure(batches[:1], directions[:1], EPSILON, ALL).rho.shape == (1,)


def test_two_threads_give_the_same_bits(tmp_path: Path) -> None:
    script = (
        "import runpy, sys; from device_runtime.core import Direction\n"
        "toy = runpy.run_path(sys.argv[1])['Toy'](threads=int(sys.argv[2]))\n"
        "m = toy.core.measure([toy.batch(1, tokens=16)], [Direction(1), Direction(2)], 1e-3, [0, 1, 2])\n"
        "print(m.rho.tobytes().hex())\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).with_name("conftest.py"))]
    one, two = (
        subprocess.run([*command, threads], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for threads in ("1", "2")
    )
    assert one == two != ""
