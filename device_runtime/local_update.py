"""The local update: a task's directions and this device's private examples in, a few scalars out.

This is what a device does with its data, from top to bottom:

    step:       draw a batch from the private examples by the step's seed
                for each direction z:  rho = (L(theta + epsilon z') - L(theta - epsilon z')) / (2 epsilon)
                    (or, where the task asks so of the head alone, the slope itself: grad L . z')
                each rho: clip, noise, round to float32: that is what leaves, and what the device goes on with
                when the step says so, move: theta <- theta - rate * mean_j(rho_j z'_j), rounded as all steps
    at the end: theta is again the version that the task was about, bit for bit

Nothing here knows a network, a file or a round. State goes in as arguments and comes out as the result; the
one thing that is changed and restored is the adapter inside the core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from protos import federation_pb2 as pb

from .directions import Direction, expand
from .errors import LossNotFinite, Stopped
from .groups import Between, Chain, measure_in_groups
from .task_checks import check_task
from .zo.philox import blocks

BATCH_STREAM = 2  # of Philox; 0 and 1 are the adapter's noise and rounding


class Batch(NamedTuple):
    """One batch in the program's shape, in which rows of weight 0 count nothing. Shapes: (B, T) and (B,).

    Where the targets are tokens, labels are (B, T), -100 for none.

    Where `hidden` (B, T, D) is set, it is what enters `first_segment`, and nothing before that runs.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    hidden: NDArray[np.float32] | None = None
    first_segment: int = 0


class Measurement(Protocol):
    """What Core.measure answers."""

    @property
    def rho(self) -> NDArray[np.float64]: ...


class Core(Chain, Protocol):
    """What is used here of engine.Engine."""

    def measure(
        self,
        batches: list[Batch],
        directions: list[Direction],
        epsilon: float,
        active_segments: list[int],
        exit_segment: int,
        global_weight: float,
    ) -> Measurement: ...

    def slopes(
        self, batches: list[Batch], directions: list[Direction], epsilon: float, exit_segment: int
    ) -> NDArray[np.float64]: ...

    def evaluate(self, batches: list[Batch], exit_segment: int) -> tuple[float, float, int]: ...

    def update(
        self,
        epsilon: float,
        update_seed: int,
        active_segments: list[int],
        directions: list[Direction],
        coefficients: list[float],
        guides: list[tuple[int, float]],
    ) -> int: ...

    @property
    def adapter(self) -> NDArray[np.float32]: ...


class Feed(Protocol):
    """Guides that are still arriving; see streamed.py."""

    def measure(
        self, batches: list[Batch], directions: list[Direction], between: Between
    ) -> Iterator[NDArray[np.float64]]: ...


class Examples(Protocol):
    """Private examples, tokenised; see private_examples.py. A batch holds `rows` of them."""

    @property
    def rows(self) -> int: ...

    def __len__(self) -> int: ...

    def batches(self, chosen: Sequence[int]) -> list[Batch]: ...


@dataclass(frozen=True)
class LocalResult:
    """What a directions task gives. `scalars` are in wire form: step by step, direction by direction."""

    scalars: list[float]
    examples: int  # distinct ones behind the scalars


@dataclass(frozen=True)
class LocalTask:
    """A directions task whose guides are in the core, or come there by the `feed`: `guide_index` says under
    which index each is set.
    """

    task: pb.DirectionsTask
    guide_index: Mapping[bytes, int] = field(default_factory=dict)
    feed: Feed | None = None  # of guides that are still arriving


def run_directions(
    local: LocalTask,
    core: Core,
    train: Examples,
    gauss: Callable[[], float],
    done: Iterable[float] = (),
    between: Between | None = None,
) -> LocalResult:
    """Measures every direction of every step, moving in between where the task says so.

    `done` are the scalars of directions that were finished before the process ended: they are not measured
    (nor noised) again, only moved along. `between` keeps further ones, group by group, and may end the work.
    `gauss` draws from N(0, 1), from the device's own randomness.

    The adapter is the same after it, bit for bit, also when it raises.

    Raises TaskRefused (a subclass says which status to report), or Stopped.
    """
    task = local.task
    check_task(task)
    moves = any(step.local_learning_rate > 0 for step in task.steps[:-1])
    # A second copy of the adapter exists only while a task moves it; measuring alone restores it by itself.
    base = core.adapter.copy() if moves else None
    between = between or Between()
    scalars = list(done)
    used: set[int] = set()
    position, last = 0, sum(direction.count for step in task.steps for direction in step.directions)
    try:
        for number, step in enumerate(task.steps):
            chosen = draw_batch(step.batch_seed, step.batch_examples, len(train))
            used.update(chosen)
            directions = expand(step.directions, task.active_segments, local.guide_index)
            missing = directions[max(0, len(scalars) - position) :]
            position += len(directions)
            batches = train.batches(chosen) if missing else []
            for rho in measure(core, batches, missing, local, between):
                fresh = [wire_form(value, task.scalar_form, gauss) for value in rho]
                scalars += fresh
                if len(scalars) < last:
                    between.keep(fresh)
                    if not between.go_on():
                        raise Stopped("work was suspended between two directions: call again to go on")
            # After the last step nothing is measured any more, so moving would only be undone.
            if step.local_learning_rate > 0 and number + 1 < len(task.steps):
                move(core, task, step, directions, scalars[position - len(directions) : position])
    finally:
        if base is not None:
            core.adapter[:] = base
    return LocalResult(scalars, len(used))


def measure(
    core: Core, batches: list[Batch], directions: list[Direction], local: LocalTask, between: Between
) -> Iterator[NDArray[np.float64]]:
    """The projected gradients, float64, one a direction, group by group.

    Raises LossNotFinite when one is not a number.
    """
    if local.feed is None:
        groups = measure_whole(core, batches, directions, local.task, between)
    else:
        groups = local.feed.measure(batches, directions, between)
    for rho in groups:
        if not np.all(np.isfinite(rho)):
            raise LossNotFinite("the loss is not finite: use a smaller epsilon or learning rate")
        yield rho


def measure_whole(
    core: Core, batches: list[Batch], directions: list[Direction], task: pb.DirectionsTask, between: Between
) -> Iterator[NDArray[np.float64]]:
    """The same along guides that are all in the core, without a look at the numbers."""
    segments = list(task.active_segments)
    ends = task.exit_segment, task.global_weight

    def measure_group(batches: list[Batch], group: list[Direction]) -> NDArray[np.float64]:
        if not any(direction.exact for direction in group):
            return core.measure(batches, group, task.epsilon, segments, *ends).rho
        rho = np.empty(len(group))
        exact = np.array([direction.exact for direction in group])
        rho[exact] = core.slopes(batches, [d for d in group if d.exact], task.epsilon, task.exit_segment)
        if rest := [d for d in group if not d.exact]:
            rho[~exact] = core.measure(batches, rest, task.epsilon, segments, *ends).rho
        return rho

    yield from measure_in_groups(core, batches, directions, measure_group, between, task.exit_segment)


def wire_form(rho: float, form: pb.ScalarForm, gauss: Callable[[], float]) -> float:
    """What a scalar becomes before it leaves: clipped to |rho| <= clip, noised, rounded to float32, in this
    order.
    """
    value = float(rho)
    if form.clip > 0:
        value = min(max(value, -form.clip), form.clip)
    if form.noise_std > 0:
        value += form.noise_std * gauss()
    with np.errstate(over="ignore"):  # checked in the next line
        rounded = float(np.float32(value))
    if not np.isfinite(rounded):
        raise LossNotFinite("a projected gradient is beyond float32: use a smaller learning rate, or a clip")
    return rounded


def move(
    core: Core, task: pb.DirectionsTask, step: pb.Step, directions: list[Direction], scalars: Sequence[float]
) -> None:
    """One local step, theta <- theta - rate * mean_j(rho_j z'_j), with the scalars in wire form and no
    others.
    """
    coefficients = [-step.local_learning_rate * rho / len(scalars) for rho in scalars]
    segments = list(task.active_segments)
    core.update(task.epsilon, step.update_seed, segments, directions, coefficients, [])


def evaluate(core: Core, held_out: Examples, exit_segment: int = 0) -> pb.Evaluation:
    """The mean loss in nats, the number of right answers and of targets (an example each, or a response's
    tokens), over all held-out examples. The head takes what leaves segment exit_segment - 1; 0: the last one.
    """
    loss_sum, count, correct = 0.0, 0.0, 0
    for start in range(0, len(held_out), held_out.rows):  # one batch in memory at a time
        chosen = range(start, min(start + held_out.rows, len(held_out)))
        sums = core.evaluate(held_out.batches(chosen), exit_segment)
        loss_sum, count, correct = loss_sum + sums[0], count + sums[1], correct + sums[2]
    if not np.isfinite(loss_sum):
        raise LossNotFinite("the loss is not finite: publish an earlier adapter version")
    return pb.Evaluation(loss=loss_sum / count, correct=correct, count=round(count))


def draw_batch(batch_seed: int, batch_examples: int, available: int) -> list[int]:
    """Positions of the distinct examples of a batch: all of them, in drawn order, when there are fewer than
    asked.

    Example i draws the 64-bit number made of words 2 (i mod 2) and 2 (i mod 2) + 1 (low word first) of block
    i div 2 of Philox stream 2 under the seed; the smallest numbers are chosen, the smaller position first
    among equals.
    """
    words = blocks(batch_seed, BATCH_STREAM, 0, (available + 1) // 2).reshape(-1, 2).astype(np.uint64)
    drawn = (words[:available, 0] | (words[:available, 1] << np.uint64(32)))[:available]
    order = np.argsort(drawn, kind="stable")
    return [int(position) for position in order[:batch_examples]]
