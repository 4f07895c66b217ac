"""Personalising: local steps that stay on the device, on top of the shared adapter.

What is kept is a difference d, of as many float32 values as the adapter has, on the same grid. The private
adapter is, a value at a time,

    theta_private = clip(theta_shared + d)        exact in float32; clip: one grid step inside the bound

whatever version is held when it is used: so a new version brings what others taught, and d what this device's
own examples did. With another bundle d means nothing and is as good as absent.

d is made by steps of simultaneous perturbation (Spall 1992; MeZO, arXiv 2305.17333) from the private adapter
as it is: theta <- theta - rate * mean_j(rho_j z'_j). After every BLOCK_STEPS steps the loss on the training
examples is looked at: a block that raised it is undone and the rate halved, so no rate has to be chosen. The
held-out tenth, where it is large enough to tell, has the last word: a result that is worse there is not kept.

Nothing here is reported, and the shared adapter in memory and on disk is the same afterwards, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .directions import Direction
from .errors import NotEnoughExamples, OptionError
from .local_update import Batch, Examples, draw_batch, evaluate
from .private_examples import PrivateExamples
from .versions import adapter_sha256
from .zo.layout import Layout

if TYPE_CHECKING:
    from .engine import Engine

Float32 = NDArray[np.float32]

FEWEST_EXAMPLES = 8
BLOCK_STEPS = 8
MOST_EVALUATED = 256


@dataclass(frozen=True)
class Personal:
    """What was personalised: the difference d (n,), of which bundle, from which shared version it grew (hex),
    by how many steps in all.
    """

    bundle_sha256: str
    shared_sha256: str
    steps: int
    difference: Float32 = field(repr=False, compare=False)

    def to_bytes(self) -> bytes:
        """One line of JSON, then the difference as little-endian float32."""
        fields = {name: getattr(self, name) for name in ("bundle_sha256", "shared_sha256", "steps")}
        return json.dumps(fields).encode() + b"\n" + self.difference.astype("<f4", copy=False).tobytes()

    @staticmethod
    def from_bytes(data: bytes | None, bundle_sha256: str) -> Personal | None:
        """None where there is nothing, or it is of another bundle."""
        if data is None:
            return None
        line, _, values = data.partition(b"\n")
        personal = Personal(**json.loads(line), difference=np.frombuffer(values, "<f4"))
        return personal if personal.bundle_sha256 == bundle_sha256 else None

    def over(self, shared: Float32, layout: Layout) -> Float32:
        """The private adapter over a shared one: see the module."""
        private = np.empty_like(shared)
        for tensor in layout.tensors:
            most = (2**23 - 1) * 2.0**-tensor.exponent
            total = shared[tensor.span].astype(np.float64) + self.difference[tensor.span]
            private[tensor.span] = np.clip(total, -most, most) + 0.0  # never -0.0
        return private


@contextmanager
def applied(engine: Engine, personal: Personal) -> Iterator[None]:
    """The engine with the private adapter in it; with the shared one again afterwards."""
    with engine.lock:
        shared = engine.adapter.copy()
        try:
            engine.adapter[:] = personal.over(shared, engine.bundle.layout)
            yield
        finally:
            engine.adapter[:] = shared


@dataclass(frozen=True)
class Practice:
    """How to personalise. `segments` is "head" or "all" ("": the head, where it has parameters).

    Raises OptionError for numbers that make no sense.
    """

    steps: int = 160
    directions: int = 16
    batch_examples: int = 64
    learning_rate: float = 0.5  # at first; of the mean over directions, times directions / parameters
    epsilon: float = 0.01
    segments: str = ""

    def __post_init__(self) -> None:
        if min(self.steps, self.directions, self.batch_examples) < 1:
            raise OptionError("personalising takes at least 1 step, direction and example a batch")
        if not (0 < self.learning_rate < np.inf and 0 < self.epsilon < np.inf):
            raise OptionError("personalising takes a learning rate and an epsilon above 0")
        if self.segments not in ("", "head", "all"):
            raise OptionError(f"segments {self.segments!r}: use head or all")

    def active(self, counts: Mapping[int, int]) -> list[int]:
        """The segments that move, those with parameters alone."""
        head = max(counts)
        if self.segments == "head" or (self.segments == "" and counts[head] > 0):
            chosen = [head]
        else:
            chosen = sorted(counts)
        active = [segment for segment in chosen if counts[segment] > 0]
        if not active:
            raise OptionError("this bundle's head has no parameters: personalise with segments all")
        return active


@dataclass(frozen=True)
class Personalised:
    """What personalising did. Losses are means in nats; those of the held-out examples are None where there
    are too few. `kept` is False where the result was no better, and what was before is still there.
    """

    kept: bool
    steps: int
    examples: int
    loss_before: float
    loss_after: float
    held_out_loss_before: float | None
    held_out_loss_after: float | None


def personalise(
    engine: Engine,
    private: PrivateExamples,
    before: Personal | None,
    practice: Practice,
    go_on: Callable[[], bool] = lambda: True,
) -> tuple[Personal, Personalised]:
    """Learns from the training examples, from where `before` ended; ends early when `go_on` says so.

    Raises NotEnoughExamples with fewer than 8, OptionError, LossNotFinite (use a smaller epsilon), Stopped.
    The engine's adapter is the same after it, also when it raises.
    """
    if len(private.train) < FEWEST_EXAMPLES:
        raise NotEnoughExamples(f"fewer than {FEWEST_EXAMPLES} examples to learn from: give more")
    active = practice.active(engine.segment_counts)
    with engine.lock:
        shared = engine.adapter.copy()
        try:
            if before is not None:
                engine.adapter[:] = before.over(shared, engine.bundle.layout)
            engine.set_scale(None)
            train, held_out = private.train_from(active[0], engine), private.held_out
            judged = held_out if len(held_out) >= FEWEST_EXAMPLES else None
            held_out_before = evaluate(engine, judged).loss if judged else None
            first_step = before.steps if before else 0
            losses, steps = _practise(engine, train, practice, active, first_step, go_on)
            held_out_after = evaluate(engine, judged).loss if judged else None
            difference = engine.adapter - shared
        finally:
            engine.adapter[:] = shared
    worse = held_out_before is not None and held_out_after is not None and held_out_after > held_out_before
    found = Personalised(
        kept=losses[1] < losses[0] and not worse,
        steps=steps,
        examples=len(train),
        loss_before=losses[0],
        loss_after=losses[1],
        held_out_loss_before=held_out_before,
        held_out_loss_after=held_out_after,
    )
    sha256 = adapter_sha256(shared).hex()
    return Personal(engine.bundle.sha256, sha256, first_step + steps, difference), found


class _First:
    """The first examples of a set, as many as are looked at after every block."""

    def __init__(self, examples: Examples) -> None:
        self._examples, self.rows = examples, examples.rows

    def __len__(self) -> int:
        return min(len(self._examples), MOST_EVALUATED)

    def batches(self, chosen: Sequence[int]) -> list[Batch]:
        return self._examples.batches(chosen)


def _practise(
    engine: Engine,
    train: Examples,
    practice: Practice,
    active: list[int],
    first_step: int,
    go_on: Callable[[], bool],
) -> tuple[tuple[float, float], int]:
    """Moves the engine's adapter: ((loss before, after), steps taken). Seeds follow from a step's number."""
    seen = _First(train)
    counts = engine.segment_counts
    rate = practice.learning_rate * practice.directions / sum(counts[segment] for segment in active)
    start = lowest = evaluate(engine, seen).loss
    best = engine.adapter.copy()
    step = first_step
    while step < first_step + practice.steps and go_on():
        for _ in range(min(BLOCK_STEPS, first_step + practice.steps - step)):
            _step(engine, train, practice, active, step, rate)
            step += 1
        loss = evaluate(engine, seen).loss
        if loss < lowest:
            lowest, rate = loss, rate * 1.25
            best[:] = engine.adapter
        else:
            engine.adapter[:] = best
            rate /= 2
    return (start, lowest), step - first_step


def _step(
    engine: Engine, train: Examples, practice: Practice, active: list[int], step: int, rate: float
) -> None:
    batches = train.batches(draw_batch(step, practice.batch_examples, len(train)))
    first_seed = step * practice.directions
    directions = [Direction(first_seed + j, 1.0, [], active) for j in range(practice.directions)]
    rho = engine.measure(batches, directions, practice.epsilon, active).rho
    coefficients = [-rate * float(value) / len(directions) for value in rho]
    engine.update(practice.epsilon, step, active, directions, coefficients, [])
