"""The disclosure budget: how much a device tells about its data, whatever the cloud asks for.

A projected gradient is one linear equation about the gradient of the device's batch. As many of them as there
are parameters would hand the gradient over, and with it labels and features of a small batch. So the device
counts them, per round and over all tasks of the round, and refuses a task that would go beyond:

    max_scalars_per_round        1 % of the adapter's parameters, at most 4,096
    max_head_scalars_per_round   64, of directions that measure the head alone, or above all: its gradient is
                                 the one that gives labels away most directly (see concentration.py)
    min_batch_examples           8 distinct examples behind every number, the two of an evaluation included

A segment's score is a scalar as well.

A refused task costs nothing. What was disclosed is written down in the same moment as the report, before it
leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from protos import federation_pb2 as pb

from .errors import BudgetExceeded, NotEnoughExamples, OptionError, UnsupportedTask

SMALLEST_BATCH_EXAMPLES = 8
MOST_SCALARS = 4096
HEAD_SCALARS = 64
ROUNDS_REMEMBERED = 64


@dataclass(frozen=True)
class Budget:
    """What a device is willing to disclose in one round.

    `max_scalars_per_round` None stands for the default, which depends on the adapter: see `resolve`.

    Raises OptionError when a number is negative, or when a batch could be smaller than 8 examples.
    """

    max_scalars_per_round: int | None = None
    max_head_scalars_per_round: int = HEAD_SCALARS
    min_batch_examples: int = SMALLEST_BATCH_EXAMPLES

    def __post_init__(self) -> None:
        if (self.max_scalars_per_round or 0) < 0 or self.max_head_scalars_per_round < 0:
            raise OptionError("a disclosure budget cannot be negative: use 0 to disclose nothing")
        if self.min_batch_examples < SMALLEST_BATCH_EXAMPLES:
            raise OptionError(f"min_batch_examples must be at least {SMALLEST_BATCH_EXAMPLES}")

    def resolve(self, parameters: int | None) -> Budget:
        """The same budget with its numbers filled in for an adapter of so many parameters.

        A device that holds no bundle yet does not know them (None) and promises no more than the head's
        share.
        """
        if self.max_scalars_per_round is not None:
            return self
        scalars = HEAD_SCALARS if parameters is None else min(max(1, parameters // 100), MOST_SCALARS)
        return replace(self, max_scalars_per_round=scalars)

    def message(self, parameters: int | None) -> pb.DisclosureBudget:
        """What a check-in tells the cloud, so that it plans within it."""
        budget = self.resolve(parameters)
        return pb.DisclosureBudget(
            max_scalars_per_round=budget.max_scalars_per_round or 0,
            max_head_scalars_per_round=budget.max_head_scalars_per_round,
            min_batch_examples=budget.min_batch_examples,
        )


@dataclass(frozen=True)
class Disclosure:
    """How many scalars a task asks for, and how many of them count as the head's alone."""

    scalars: int
    head_scalars: int


NOTHING = Disclosure(0, 0)


def disclosure_of(task: pb.DirectionsTask, head_segment: int) -> Disclosure:
    """Counts what a task would disclose by its segments, without expanding anything that the cloud could have
    made huge. Where scale and guides put the energy is looked at when they are here: see concentration.py.
    """
    guide_segments = {guide.sha256: set(guide.segments) for guide in task.guides}
    scalars = head_scalars = 0
    for step in task.steps:
        for direction in step.directions:
            count = max(1, direction.count)
            scalars += count
            if _segments_of(direction, set(task.active_segments), guide_segments) <= {head_segment}:
                head_scalars += count
    return Disclosure(scalars, head_scalars)


def _segments_of(
    direction: pb.Direction, active_segments: set[int], guide_segments: Mapping[bytes, set[int]]
) -> set[int]:
    """The segments in which a direction can be non-zero."""
    active = set(direction.active_segments) or active_segments
    if direction.isotropic_scale != 0:
        return active
    touched: set[int] = set()
    for term in direction.guides:
        touched |= guide_segments.get(term.guide_sha256, set())
    return active & touched


def check_directions(
    task: pb.DirectionsTask,
    budget: Budget,
    disclosed: Sequence[int],
    head_segment: int,
    train_examples: int,
) -> Disclosure:
    """Decides whether a task is within the budget. `budget` is resolved; `disclosed` is this round's
    [scalars, head].

    Returns what the task discloses, to be added to the round's account when its report is written.

    Raises BudgetExceeded, NotEnoughExamples or UnsupportedTask: report the refusal; nothing was disclosed.
    """
    if not task.steps or any(not step.directions for step in task.steps):
        raise UnsupportedTask("a task needs at least one step, and every step at least one direction")
    wanted = disclosure_of(task, head_segment)
    check_scalars(wanted, budget, disclosed)
    check_batch(min(step.batch_examples for step in task.steps), budget)
    check_examples(train_examples, budget, "training")
    return wanted


def check_scalars(wanted: Disclosure, budget: Budget, disclosed: Sequence[int]) -> None:
    """Raises BudgetExceeded when a round that has disclosed [scalars, head] would disclose too many."""
    limit = budget.max_scalars_per_round or 0
    if disclosed[0] + wanted.scalars > limit:
        raise BudgetExceeded(
            f"{wanted.scalars} scalars asked, {disclosed[0]} disclosed in this round, limit {limit}: "
            "ask for fewer"
        )
    if disclosed[1] + wanted.head_scalars > budget.max_head_scalars_per_round:
        raise BudgetExceeded(
            f"{wanted.head_scalars} scalars in the head alone asked, {disclosed[1]} disclosed in this round, "
            f"limit {budget.max_head_scalars_per_round}: ask for fewer"
        )


def check_scores(
    task: pb.ScoreSegmentsTask, budget: Budget, disclosed: Sequence[int], segments: int, train_examples: int
) -> Disclosure:
    """Decides as check_directions does about scores of the segments, of which each counts as a scalar."""
    limit = budget.max_scalars_per_round or 0
    if disclosed[0] + segments > limit:
        raise BudgetExceeded(
            f"{segments} segment scores asked, {disclosed[0]} scalars disclosed in this round, "
            f"limit {limit}: ask in another round"
        )
    check_batch(task.batch_examples, budget)
    check_examples(train_examples, budget, "training")
    return Disclosure(segments, 0)


def check_batch(batch_examples: int, budget: Budget) -> None:
    """Raises BudgetExceeded when a number about so few examples would say too much about each of them."""
    if batch_examples < budget.min_batch_examples:
        raise BudgetExceeded(
            f"a batch of {batch_examples} examples asked, at least {budget.min_batch_examples} disclosed "
            "about: ask for larger batches"
        )


def check_examples(examples: int, budget: Budget, which: str) -> None:
    """Raises NotEnoughExamples when a number about these examples would say too much about each of them."""
    if examples < budget.min_batch_examples:
        raise NotEnoughExamples(
            f"fewer than {budget.min_batch_examples} distinct {which} examples: "
            "give this device work when it has more"
        )


def check_evaluation(round_number: int, adapter_sha256: str, evaluated: Mapping[str, str]) -> None:
    """Raises BudgetExceeded for a second evaluation in a round, unless it repeats the first: that says
    nothing new.
    """
    before = evaluated.get(str(round_number))
    if before not in (None, adapter_sha256):
        raise BudgetExceeded("another adapter was evaluated in this round: ask for one evaluation a round")


def disclosed_in(round_number: int, account: Mapping[str, Sequence[int]]) -> list[int]:
    """What a round has cost so far: [scalars, of these in the head alone].

    Raises BudgetExceeded for a round older than those remembered, whose account is gone.
    """
    rounds = sorted(int(key) for key in account)
    if len(rounds) >= ROUNDS_REMEMBERED and round_number < rounds[0]:
        raise BudgetExceeded(
            "this round is too long ago to know what was disclosed in it: ask about a newer one"
        )
    return list(account.get(str(round_number), (0, 0)))


def charge(
    account: Mapping[str, Sequence[int]], round_number: int, disclosure: Disclosure
) -> dict[str, list[int]]:
    """The account with a disclosure added; only the newest rounds are kept."""
    before = account.get(str(round_number), (0, 0))
    charged = {key: list(value) for key, value in account.items()}
    charged[str(round_number)] = [before[0] + disclosure.scalars, before[1] + disclosure.head_scalars]
    newest = sorted(charged, key=int)[-ROUNDS_REMEMBERED:]
    return {key: charged[key] for key in newest}
