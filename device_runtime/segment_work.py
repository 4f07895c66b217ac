"""What was run of a chain, segment by segment. Reports carry it: it tells the cloud what segments cost."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class SegmentWork:
    """Runs of each segment and the nanoseconds that they took, the head's last.

    A pair is a run for both signs of a direction in one forward; `runs` does not count it, `ns` does.
    `perturb_ns` went into changing a segment's slice of the adapter, `check_ns` into looking at directions
    before.
    """

    runs: tuple[int, ...] = ()
    pairs: tuple[int, ...] = ()
    ns: tuple[int, ...] = ()
    perturb_ns: tuple[int, ...] = ()
    check_ns: tuple[int, ...] = ()

    def since(self, before: SegmentWork) -> SegmentWork:
        """What was done after `before`, of the same chain."""
        return SegmentWork(
            *(
                tuple(new - old for new, old in zip(after, earlier, strict=True))
                for after, earlier in zip(astuple(self), astuple(before), strict=True)
            )
        )

    @property
    def run_ms(self) -> list[float]:
        """Mean milliseconds of one adapter in each segment, ns / (runs + 2 pairs); 0 where none ran."""
        adapters = [runs + 2 * pairs for runs, pairs in zip(self.runs, self.pairs, strict=True)]
        return [ns / count / 1e6 if count else 0.0 for ns, count in zip(self.ns, adapters, strict=True)]
