"""What runs leave in memory: one run's rows and adapter, and what the whole simulation says in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cooperllm.simulate import bits, blocks, pipelined, stages
from cooperllm.simulate.bits import GuideBits
from cooperllm.simulate.pipelined import Pipelined
from cooperllm.simulate.records import Crossing, Curve, Figure, RoundRow, total_bytes
from cooperllm.simulate.report import bytes_text
from cooperllm.simulate.rounds import FinalAdapter
from cooperllm.simulate.timeline import Span
from device_runtime.errors import CooperLLMError

NAMES: dict[str, tuple[str, str]] = {
    "cooperllm": ("with devices", "the run itself: public data in the cloud, private data on the devices"),
    "public_alone": (
        "public data alone",
        "back-propagation on the public data, its penalty chosen by cross-validation on them",
    ),
    "devices_alone": (
        "devices alone",
        "guide weight 0 and no public fit: of the public data only the noise's scale is left",
    ),
    "shuffled": ("devices' labels shuffled", "the same run, the labels of all private examples permuted"),
    "oracle": ("oracle", "back-propagation on public and all private data: what no federation may do"),
}

TITLES: dict[str, str] = {key: name for key, (name, _) in NAMES.items()}


@dataclass(frozen=True)
class Run:
    """What one federated run left: its rows, the spans of its timeline, and its final adapter."""

    rows: list[RoundRow]
    spans: list[Span]
    unequal: list[str]
    refusals: list[str]
    final: FinalAdapter
    skipped_examples: int
    truncated_examples: int
    duration_s: float
    crossings: Sequence[Crossing] = ()
    guides: Sequence[GuideBits] = ()

    @cached_property
    def typical(self) -> tuple[Pipelined | None, int]:
        """The round and device in the middle by makespan, and of how many."""
        return pipelined.typical(self.spans)

    @property
    def accuracy(self) -> float:
        """Accuracy of the last version on the eval file."""
        last = self.rows[-1].accuracy
        if last is None:
            raise CooperLLMError("the cloud did not score the last version; see its log in the run's folder")
        return last


@dataclass(frozen=True)
class Outcome:
    """What `cooperllm simulate` says in the end."""

    folder: Path
    figures: Sequence[Figure]
    unequal: Sequence[str]
    compared: int
    adapter_sha256: Sequence[str]
    refusals: Sequence[str]
    duration_s: float
    chains: Sequence[Mapping[str, Any] | None] = ()  # of each seed's run; None without a chain
    blocks: Sequence[Sequence[Mapping[str, Any]]] = ()  # of each seed's run; empty without blocks
    crossings: Sequence[Crossing] = ()  # of the first seed's run; empty without links
    typical: tuple[Pipelined | None, int] = (None, 0)  # of the same, see pipelined.typical
    guides: Sequence[GuideBits] = ()  # of the same; empty where none were sent
    traffic: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # of the same, see traffic_of

    def lines(self) -> list[str]:
        """The result for people."""
        lines = [""]
        for figure in self.figures:
            spread = "" if figure.spread is None else f" ± {100 * figure.spread:.1f}"
            lines.append(f"{figure.name:>26}  {100 * figure.mean:5.1f} %{spread}   {figure.explanation}")
        lines.append("")
        for chain in self.chains:
            lines += stages.lines(chain) if chain else []
        for cuts in self.blocks:
            lines += blocks.lines(cuts)
        lines += bits.lines(self.guides)
        found, count = self.typical
        if found is not None:
            lines.append(pipelined.line(found, count))
        if self.crossings:
            down, up = (
                bytes_text(sum(getattr(item, way) for item in self.crossings))
                for way in ("down_bytes", "up_bytes")
            )
            guides = bytes_text(self.traffic.get("downlink_bytes", {}).get("guides", 0))
            lines.append(f"Links: {down} down ({guides} of it guides), {up} up, all devices together")
        if self.unequal:
            lines += [f"NOT EQUAL: {line}" for line in self.unequal]
        else:
            lines.append(
                f"Adapter hashes: all {self.compared} copies on devices equal the cloud's, after every round."
            )
        if self.refusals:
            lines.append(f"{len(self.refusals)} tasks were refused, first: {self.refusals[0]}")
        lines.append(f"Took {self.duration_s:.0f} s. Report: {self.folder / 'report.html'}")
        return lines

    def to_json_object(self) -> dict[str, Any]:
        """The result for programs."""
        found, count = self.typical
        return {
            "folder": str(self.folder),
            "accuracy": {figure.key: list(figure.accuracies) for figure in self.figures},
            "mean_accuracy": {figure.key: figure.mean for figure in self.figures},
            "unequal": list(self.unequal),
            "compared": self.compared,
            "adapter_sha256": list(self.adapter_sha256),
            "refusals": list(self.refusals),
            "duration_s": self.duration_s,
            "traffic": self.traffic,
            **({"pipeline": pipelined.facts(found, count)} if found is not None else {}),
            **({"guides": bits.summary(self.guides)} if self.guides else {}),
            **({"links": [asdict(item) for item in self.crossings]} if self.crossings else {}),
            **({"chain": list(self.chains)} if any(self.chains) else {}),
            **({"blocks": list(self.blocks)} if any(self.blocks) else {}),
        }


def figures_of(
    runs: Mapping[tuple[str, int], Run], levels: Mapping[str, Sequence[float]], seeds: Sequence[int]
) -> list[Figure]:
    """Bring the runs' accuracies and the levels of back-propagation into the order of the comparison."""
    figures = []
    for key, (name, explanation) in NAMES.items():
        if key in levels:
            figures.append(Figure(key, name, explanation, levels[key]))
        elif (key, seeds[0]) in runs:
            figures.append(Figure(key, name, explanation, [runs[key, seed].accuracy for seed in seeds]))
    return figures


def traffic_of(rows: Sequence[RoundRow]) -> dict[str, dict[str, int]]:
    """Payload bytes of a run by direction and kind, as the service counted them."""
    return {way: total_bytes(rows, way) for way in ("downlink_bytes", "uplink_bytes")}


def curves_of(runs: Mapping[tuple[str, int], Run]) -> list[Curve]:
    """The curve of every federated run."""
    return [Curve.of(key, seed, run.rows) for (key, seed), run in runs.items()]
