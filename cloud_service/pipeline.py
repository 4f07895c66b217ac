"""When a pipeline of stages is done with a guide's segments: the flow shop, without a clock.

Stage l (guide sampling, link, device) takes p(l, k) seconds for segment k. A stage takes the segments in
order, one at a time, and a segment enters a stage when the one before is done with it:

    C(l, k) = max(C(l - 1, k), C(l, k - 1)) + p(l, k)

C(last, last) is the makespan. One thing after the other takes the sum of all p. (S. M. Johnson, Naval
Research Logistics Quarterly 1, 1954, is the case of two stages.) This is what a pipelined round is held to,
and what `compression.choose` asks before it decides how many bytes a device is sent.
"""

from __future__ import annotations

from collections.abc import Sequence


def completion(stages_s: Sequence[Sequence[float]]) -> list[list[float]]:
    """C(l, k) for stages_s[l][k] = p(l, k): seconds from the start, shape as `stages_s`.

    Raises ValueError where the stages are not of one length: a mistake of the caller.
    """
    before = [0.0] * (len(stages_s[0]) if stages_s else 0)
    done: list[list[float]] = []
    for stage in stages_s:
        now_s, row = 0.0, []
        for ready_s, takes_s in zip(before, stage, strict=True):
            now_s = max(ready_s, now_s) + takes_s
            row.append(now_s)
        done.append(row)
        before = row
    return done


def makespan_s(stages_s: Sequence[Sequence[float]]) -> float:
    """When the last stage is done with the last segment; 0 where there is none."""
    done = completion(stages_s)
    return done[-1][-1] if done and done[-1] else 0.0


def serial_s(stages_s: Sequence[Sequence[float]]) -> float:
    """How long the same work takes one thing after the other."""
    return sum(sum(stage) for stage in stages_s)
