"""What a run in two blocks (FedSPZO) says of where it was cut, and who decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cooperllm.simulate.records import RoundRow

WHY = {"job": "as the job says", "count": "by counted operations", "times": "by the devices' times"}


def summary(rows: Sequence[RoundRow]) -> list[dict[str, Any]]:
    """Stretches of rounds with the same cut, in order; none when the run had no blocks."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if row.split is None:
            continue
        cut = {key: row.split[key] for key in ("boundary", "per_prefix", "by")}
        if found and cut.items() <= found[-1].items():
            found[-1]["rounds"][1] = row.version
        else:
            found.append(cut | {"rounds": [row.version, row.version]})
        found[-1]["segment_ms"] = row.split["segment_ms"]
    return found


def lines(cuts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same for people."""
    found = [
        f"Two blocks: cut before segment {cut['boundary']}, P2 = {cut['per_prefix']}, {WHY[cut['by']]}, "
        f"rounds {cut['rounds'][0]}-{cut['rounds'][1]}"
        for cut in cuts
    ]
    if cuts and cuts[-1]["segment_ms"]:
        times = " ".join(f"{ms:.3g}" for ms in cuts[-1]["segment_ms"])
        found.append(f"  a run of each segment took {times} ms, the head's last (median of devices)")
    return found
