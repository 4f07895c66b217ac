"""A step's directions, measured a few at a time: between two groups what is finished is kept, and work may
end.

Groups cost no segment run. Directions that share a perturbed prefix (see Direction.boundary) stay together;
what comes before the first segment that a direction moves is the same for all groups, so its hidden states
are computed once and every group enters the chain there. A group's own costs are one run of `embed` a batch
and this module's: small beside GROUP_S, which is how long a group takes where one direction does not take
longer already.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .directions import Direction
    from .local_update import Batch

GROUP_S = 0.1
MOST_GROWTH = 16  # from one group to the next
MOST_ENTRY_BYTES = 16 * 2**20  # of hidden states held for a step; beyond it, a step is one group


class Chain(Protocol):
    """What is used here of engine.Engine."""

    @property
    def segment_counts(self) -> Mapping[int, int]: ...

    def hidden(self, batch: Batch, segment: int) -> NDArray[np.float32]: ...

    @property
    def hidden_size(self) -> int: ...


@dataclass
class Between:
    """What happens between groups, and how long they are.

    `keep` gets the scalars of each group that is not a task's last (a report keeps those). After it `go_on`
    is asked; False ends the work there.
    """

    keep: Callable[[list[float]], None] = lambda scalars: None
    go_on: Callable[[], bool] = lambda: True
    clock: Callable[[], float] = time.perf_counter
    directions: int = 1  # of the next group, learned from the last

    def learn(self, directions: int, took_s: float) -> None:
        """Aims at GROUP_S."""
        most = MOST_GROWTH * directions
        self.directions = max(1, min(int(directions * GROUP_S / took_s), most)) if took_s > 0 else most


def measure_in_groups(
    core: Chain,
    batches: list[Batch],
    directions: list[Direction],
    measure: Callable[[list[Batch], list[Direction]], NDArray[np.float64]],
    between: Between,
    exit_segment: int = 0,
) -> Iterator[NDArray[np.float64]]:
    """Yields what `measure` answers for one group after the other, in order: float64, one a direction.

    Where the head takes what leaves segment exit_segment - 1 (0: the last one), no group enters behind that.
    Raises what `measure` does; what was yielded before stays true.
    """
    if not directions:
        return
    counts = core.segment_counts
    waiting = deque(units(directions, counts))

    def entry(unit: list[Direction]) -> int:
        return min(_first_moved(unit[0], counts), exit_segment or max(counts))

    firsts = sorted({entry(unit) for unit in waiting})
    size_bytes = sum(4 * core.hidden_size * batch.input_ids.size for batch in batches)
    if len(waiting) == 1 or (firsts != [0] and size_bytes * len(firsts) > MOST_ENTRY_BYTES):
        yield measure(batches, directions)
        return
    entered = _enter(core, batches, firsts)
    while waiting:
        first = entry(waiting[0])
        group = waiting.popleft()
        # The shorter the rest of the chain, the more a group's run of `embed` weighs.
        size = max(between.directions, math.ceil(first / (max(counts) + 1 - first)))
        while waiting and len(group) < size and entry(waiting[0]) == first:
            group = group + waiting.popleft()
        start_s = between.clock()
        rho = measure(entered[first], group)
        between.learn(len(group), between.clock() - start_s)
        yield rho


def units(directions: list[Direction], counts: Mapping[int, int]) -> Iterator[list[Direction]]:
    """What the planner must see at once to share its runs: neighbours that do the same before a boundary."""
    unit: list[Direction] = []
    for direction in directions:
        before = unit[0] if unit else None
        shares = (
            before is not None
            and _first_moved(direction, counts) < direction.boundary
            and before._replace(seed=0) == direction._replace(seed=0)
        )
        if unit and not shares:
            yield unit
            unit = []
        unit.append(direction)
    if unit:
        yield unit


def _first_moved(direction: Direction, counts: Mapping[int, int]) -> int:
    """The first segment in which a direction can be non-zero: the last one, where there is none."""
    return next((s for s in direction.active_segments if counts[s] > 0), max(counts))


def _enter(core: Chain, batches: list[Batch], firsts: list[int]) -> dict[int, list[Batch]]:
    """The batches with the hidden states that enter each of these segments (ascending), each run once."""
    entered = {}
    for first in firsts:
        batches = [
            batch._replace(hidden=core.hidden(batch, first), first_segment=first)
            if first > batch.first_segment
            else batch
            for batch in batches
        ]
        entered[first] = batches
    return entered
