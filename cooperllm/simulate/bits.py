"""In how many bits guides reached the devices, by segment and round, and how well they were aligned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from device_runtime.zo.layout import Layout


@dataclass(frozen=True)
class GuideBits:
    """A round's guide. `bits_by_segment` is bits a parameter as they were sent, mean over the tasks;
    `tasks_by_level` counts the tasks of each level of compression (0: float32). `cosine` is that of the guide
    as received with the guide as sampled, mean over the tasks; None where the service does not tell.
    """

    round: int
    bits_by_segment: Mapping[int, float]
    tasks_by_level: Mapping[int, int]
    cosine: float | None = None


def guide_bits(details: Iterable[Mapping[str, Any]], layout: Layout) -> list[GuideBits]:
    """Every round in which guides were sent. `details` is what History read."""
    found = []
    spans = {segment: layout.segment_slice(segment) for segment in layout.segments}
    counts = {segment: span.stop - span.start for segment, span in spans.items()}
    for row in details:
        levels = Counter(
            int(task["guide_level"])
            for task in row["tasks"]
            if task.get("guide_level") is not None and task["guide_sent"]
        )
        made = {(int(item["level"]), int(item["segment"])): item for item in row["guide_segments"]}
        segments = sorted({segment for level, segment in made if level in levels})
        bits = {
            segment: _weighted(
                {
                    level: 8 * made[level, segment]["size_bytes"] / counts[segment]
                    for level in levels
                    if (level, segment) in made
                },
                levels,
            )
            for segment in segments
        }
        if bits:
            cosines = {int(level): value for level, value in (row.get("guide_cosines") or {}).items()}
            known = {level: cosines[level] for level in levels if level in cosines}
            cosine = _weighted(known, levels) if known else None
            found.append(GuideBits(int(row["round"]), bits, dict(sorted(levels.items())), cosine))
    return found


def summary(found: Sequence[GuideBits]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [asdict(item) for item in found]


def lines(found: Sequence[GuideBits]) -> list[str]:
    """The same for people: the first round, the last, and what lies between in one number."""
    if not found:
        return []
    said = []
    for item in (found[0], found[-1]) if len(found) > 1 else found:
        bits = " ".join(f"{value:.2g}" for _, value in sorted(item.bits_by_segment.items()))
        levels = ", ".join(f"level {level}: {count}" for level, count in item.tasks_by_level.items())
        cosine = "" if item.cosine is None else f", cosine {item.cosine:.3f}"
        said.append(f"  round {item.round}: {bits} bits a parameter by segment ({levels}){cosine}")
    whole = mean(mean(item.bits_by_segment.values()) for item in found)
    return [f"Guides were sent in {whole:.2g} bits a parameter, mean of segments and rounds", *said]


def _weighted(values: Mapping[int, float], weights: Mapping[int, int]) -> float:
    total = sum(weights[key] for key in values)
    return sum(value * weights[key] for key, value in values.items()) / total if total else 0.0
