"""In which order a task's directions run, so that as few bytes as needed are held.

With D directions over guides whose segment k takes g_k bytes once decoded, S bytes for one hidden state of
every batch together and X for what `embed` gives them besides, three orders give the same scalars, bit for
bit:

    whole guides       direction by direction: all guides stay, two states come and go
                           sum_k g_k
    streaming order    segment by segment, each for all directions: a segment's slices are dropped when it
                       has run, while the next one's arrive; each sign of a direction has a state of its own
                           max_k (g_k + g_{k+1}) + 2 D S + X
    groups of G        the same for G directions at a time; every group after the first decodes the guides
                       again, from their encoded bytes on disk
                           max_k (g_k + g_{k+1}) + 2 G S + X

(The two states of the first order are there in any case: see memory.py.) Streaming order starts with the
first segment that arrives, not the last. With a_k seconds of link and c_k of a direction's work in segment k,
C the completion times of the flow shop C(l, k) = max(C(l - 1, k), C(l, k - 1)) + p(l, k) (S. M. Johnson,
Naval Research Logistics Quarterly 1, 1954) and free decoding, groups of G take C over (a_k, G c_k) and then
(D - G) sum_k c_k: the larger the group, the shorter. Whole guides take sum_k a_k + D sum_k c_k, and no group
is slower. So the largest group that memory allows is taken, and whole guides where it allows none.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

MOST_BYTES = 64 * 2**20  # where no limit was set


@dataclass(frozen=True)
class Sizes:
    """What a step needs, in bytes.

    `guide_bytes` are those of all guides together, float32, by segment that runs, in order; `state_bytes`
    those of one hidden state of every batch together, `context_bytes` of what `embed` gives them besides.
    `unit` neighbouring directions share the runs of a prefix: they are not torn apart where they fit.
    """

    guide_bytes: tuple[int, ...]
    state_bytes: int
    directions: int
    context_bytes: int = 0
    unit: int = 1


class Order(NamedTuple):
    """`group` directions at a time in streaming order; 0: direction by direction on whole guides."""

    group: int
    held_bytes: int


def whole_bytes(sizes: Sizes) -> int:
    """What is held for whole guides: sum_k g_k."""
    return sum(sizes.guide_bytes)


def streamed_bytes(sizes: Sizes, group: int) -> int:
    """What is held in streaming order: max_k (g_k + g_{k+1}) + 2 * group * S + X. Of guides, that is at most
    the two largest segments.
    """
    neighbours = (this + following for this, following in pairwise((*sizes.guide_bytes, 0)))
    return max(neighbours, default=0) + 2 * group * sizes.state_bytes + sizes.context_bytes


def choose(sizes: Sizes, left_bytes: int = MOST_BYTES) -> Order:
    """The largest group whose bytes fit into `left_bytes`; whole guides where only these fit.

    Where nothing fits, whichever holds least: the caller compares `held_bytes` with its limit and refuses the
    task, or takes the risk. Without guides there is nothing to wait for: direction by direction.
    """
    whole = Order(0, whole_bytes(sizes))
    if whole.held_bytes == 0 or sizes.directions == 0:
        return whole
    spare_bytes = left_bytes - streamed_bytes(sizes, 0)
    group = min(
        sizes.directions, spare_bytes // (2 * sizes.state_bytes) if sizes.state_bytes else sizes.directions
    )
    if group >= sizes.unit and group < sizes.directions:
        group -= group % sizes.unit
    if group >= 1:
        return Order(group, streamed_bytes(sizes, group))
    one = Order(1, streamed_bytes(sizes, 1))
    return whole if whole.held_bytes <= max(left_bytes, one.held_bytes) else one
