"""What a simulation writes down: one row a round, one curve a run, one figure a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any


@dataclass(frozen=True)
class RoundRow:
    """One line of metrics.jsonl: adapter version `version`, and the round of the same number, which was
    about it.

    Traffic and duration are that round's: bringing the version to the devices and their numbers back. The
    last round only hands out the result. `device_sha256` holds the hash that each device computed for its
    own copy of this version. `accuracy` and `loss` (mean, nats) are on the eval file; None where this
    version was not scored. `stage` is what the service tells of the round's stage, in a chain, and
    `split` of its two blocks, with fedspzo.
    """

    run: str
    seed: int
    version: int
    adapter_sha256: str
    device_sha256: Mapping[str, str]
    accuracy: float | None
    loss: float | None
    duration_s: float
    downlink_bytes: Mapping[str, int]
    uplink_bytes: Mapping[str, int]
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    stage: Mapping[str, Any] | None = None
    split: Mapping[str, Any] | None = None

    @property
    def unequal(self) -> list[str]:
        """Devices whose copy of this version is not the cloud's, bit for bit."""
        return sorted(name for name, sha256 in self.device_sha256.items() if sha256 != self.adapter_sha256)


@dataclass(frozen=True)
class Figure:
    """One accuracy of the comparison, for each seed."""

    key: str
    name: str
    explanation: str
    accuracies: Sequence[float]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return mean(self.accuracies)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None with one seed."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None


@dataclass(frozen=True)
class Curve:
    """Accuracy and loss of one federated run by version, for one seed."""

    key: str
    seed: int
    versions: Sequence[int]
    accuracy: Sequence[float]
    loss: Sequence[float]

    @staticmethod
    def of(key: str, seed: int, rows: Sequence[RoundRow]) -> Curve:
        """Take the versions that were scored."""
        scored = [(row.version, row.accuracy, row.loss) for row in rows if row.accuracy is not None]
        return Curve(
            key,
            seed,
            [version for version, _, _ in scored],
            [accuracy for _, accuracy, _ in scored],
            [0.0 if loss is None else loss for _, _, loss in scored],
        )


@dataclass(frozen=True)
class Crossing:
    """What passed one device's link, as bytes of TCP payload: with the overhead of gRPC and HTTP."""

    device: str
    link: str
    down_bytes: int
    up_bytes: int


def append_rows(path: Path, rows: Sequence[RoundRow]) -> None:
    """Append rows to metrics.jsonl."""
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(asdict(row), sort_keys=True) + "\n")


def read_rows(path: Path) -> list[RoundRow]:
    """Read metrics.jsonl back."""
    return [RoundRow(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def total_bytes(rows: Sequence[RoundRow], direction: str) -> dict[str, int]:
    """Sum one direction's traffic by kind; `direction` is "downlink_bytes" or "uplink_bytes"."""
    totals: dict[str, int] = {}
    for row in rows:
        for kind, count in getattr(row, direction).items():
            totals[kind] = totals.get(kind, 0) + count
    return totals
