"""What the core refuses: with a status, one line that says what to do, and the adapter as it was."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runtime.core import Batch, CoreError, Direction

from .conftest import GOLDEN, Toy

ALL = [0, 1, 2]


def refusal(call: Any) -> CoreError:
    with pytest.raises(CoreError) as raised:
        call()
    assert str(raised.value)
    assert "\n" not in str(raised.value)
    return raised.value


def test_a_direction_below_the_grid_names_the_epsilon_that_would_do(toy: Toy) -> None:
    error = refusal(lambda: toy.core.measure([toy.batch(1)], [Direction(1)], 1e-7, ALL))
    assert error.status == "BELOW_GRID"
    enough = float(str(error).split("epsilon ")[1].split(",")[0])
    assert toy.core.measure([toy.batch(1)], [Direction(1)], enough * 1.000001, ALL).rho.shape == (1,)


@pytest.mark.parametrize(
    ("direction", "epsilon", "active", "status"),
    [
        (Direction(1), 1e4, ALL, "OUT_OF_RANGE"),
        (Direction(1), 0.0, ALL, "BAD_ARGUMENT"),
        (Direction(1), float("nan"), ALL, "BAD_ARGUMENT"),
        (Direction(1, float("inf")), 1e-3, ALL, "BAD_ARGUMENT"),
        (Direction(1, 1.0, [(3, 1.0)]), 1e-3, ALL, "BAD_ARGUMENT"),
        (Direction(1), 1e-3, [3], "BAD_ARGUMENT"),
        (Direction(1), 1e-3, [1, 0], "BAD_ARGUMENT"),
        (Direction(1, 1.0, [], [2, 2]), 1e-3, ALL, "BAD_ARGUMENT"),
    ],
)
def test_directions(toy: Toy, direction: Direction, epsilon: float, active: list[int], status: str) -> None:
    before = toy.core.adapter.copy()
    assert refusal(lambda: toy.core.measure([toy.batch(1)], [direction], epsilon, active)).status == status
    assert toy.core.adapter.tobytes() == before.tobytes()


def test_a_guide_that_is_not_finite(toy: Toy) -> None:
    guide = np.zeros(toy.layout.parameters, np.float32)[toy.layout.segment_slice(1)]
    guide[3] = np.nan
    toy.core.set_guide(0, 1, guide)
    error = refusal(lambda: toy.core.measure([toy.batch(1)], [Direction(1, 1.0, [(0, 1.0)])], 1e-3, ALL))
    assert error.status == "NOT_FINITE"


def test_batches(toy: Toy) -> None:
    ids, mask = np.ones((4, 8), np.int64), np.ones((4, 8), np.int64)
    labels, weights = np.zeros(4, np.int64), np.ones(4)
    wrong = [
        Batch(ids[:3], mask[:3], labels[:3], weights[:3]),
        Batch(np.ones((4, 20), np.int64), np.ones((4, 20), np.int64), labels, weights),
        Batch(ids, mask, labels + 3, weights),
        Batch(ids, mask, labels - 1, weights),
        Batch(ids, mask, labels, np.zeros(4)),
        Batch(ids, mask, labels, np.array([1.0, np.nan, 1.0, 1.0])),
        Batch(ids, mask[:, :4].copy(), labels, weights),
    ]
    for batch in wrong:
        assert refusal(partial(toy.core.evaluate, [batch])).status == "BAD_ARGUMENT"
        measure = partial(toy.core.measure, [batch], [Direction(1)], 1e-3, ALL)
        assert refusal(measure).status == "BAD_ARGUMENT"
    assert refusal(lambda: toy.core.evaluate([])).status == "BAD_ARGUMENT"


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": 8}, {"batch_examples": 3}, {"segments": 3}, {"max_tokens": 64}, {"layout": "short"}],
)
def test_a_program_of_another_layout(toy: Toy, changes: dict[str, Any]) -> None:
    if "layout" in changes:
        changes = {"layout": toy.arguments()["layout"][:-1]}
    error = refusal(lambda: toy.open(**changes))
    assert error.status == "PROGRAM_MISMATCH"
    assert "method '" in str(error)


def test_a_layout_with_a_gap(toy: Toy) -> None:
    layout = toy.arguments()["layout"]
    layout[1] = (layout[1][0], layout[1][1] + 1, *layout[1][2:])
    assert refusal(lambda: toy.open(layout=layout)).status == "BAD_ARGUMENT"


def test_files_that_are_no_program(toy: Toy, tmp_path: Path) -> None:
    program = (GOLDEN / "toy.pte").read_bytes()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short").write_bytes(program[: len(program) // 3])
    (tmp_path / "cut").write_bytes(program[:-1])  # of the weights, which nobody reads before the first run
    (tmp_path / "other").write_bytes(b"x" * 4096)
    for name in ("absent", "empty", "short", "cut", "other", "."):
        error = refusal(lambda path=tmp_path / name: toy.open(program_path=str(path)))
        assert error.status in ("PROGRAM_FAILED", "PROGRAM_MISMATCH")
        assert str(tmp_path) in str(error) or "method '" in str(error)


def test_the_number_of_threads_is_of_the_process(toy: Toy) -> None:
    assert refusal(lambda: toy.open(threads=2)).status == "BAD_ARGUMENT"
    assert refusal(lambda: toy.open(threads=0)).status == "BAD_ARGUMENT"


def test_one_call_at_a_time(toy: Toy) -> None:
    seen: set[str] = set()

    def tell(call: Callable[[], object]) -> None:
        try:
            call()
        except CoreError as error:  # whichever comes second is refused, here or in the thread
            seen.add(str(error).rpartition("is ")[2])

    directions = [Direction(s) for s in range(20_000)]
    other = threading.Thread(
        target=tell, args=(lambda: toy.core.measure([toy.batch(1)], directions, 1e-3, ALL),)
    )
    other.start()
    while other.is_alive() and "still running" not in seen:
        tell(lambda: toy.core.evaluate([toy.batch(1)]))
    toy.core.stop()
    other.join()
    assert "still running" in seen


def test_importing_the_core_imports_no_torch() -> None:
    script = "import device_runtime.core, sys; print({'torch', 'transformers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
