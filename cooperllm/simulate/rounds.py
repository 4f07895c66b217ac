"""What the service's HTTP side tells about a run: rounds, traffic, scores, and the final adapter."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from cooperllm.simulate.ledger import SERVICE, Ledger
from cooperllm.simulate.records import RoundRow
from cooperllm.simulate.timeline import Span
from device_runtime.errors import CooperLLMError
from device_runtime.zo.layout import Layout

UPLINK_KINDS = ("check_in_requests", "scalars", "reports")
"""Kinds of traffic that come from the devices; all others go to them."""

TIMEOUT_S = 60.0
READ_AT_ONCE = 4  # rounds, so that whoever watches is not kept waiting


@dataclass(frozen=True)
class FinalAdapter:
    """The last version: `safetensors` as the service keeps it, `values` float32 (n,) in layout order."""

    safetensors: bytes
    values: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Operator:
    """Reads from one service what its operator may read."""

    url: str
    token: str

    def get(self, path: str) -> bytes:
        """Fetch one path. Raises CooperLLMError that names it: show it."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.token}"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
                body: bytes = reply.read()
        except urllib.error.HTTPError as error:
            raise CooperLLMError(
                f"the service answered {path} with {error.code}: {error.read(200)!r}"
            ) from None
        except OSError as error:
            raise CooperLLMError(f"the service did not answer {path}: {error}") from None
        return body

    def rounds(self) -> list[dict[str, Any]]:
        """Every round, in order."""
        found: list[dict[str, Any]] = json.loads(self.get("/v1/rounds"))
        return found

    def poll(self, history: bool) -> dict[str, Any]:
        """Where the job stands, as the body of an event; with all versions and rounds where asked or over."""
        job = json.loads(self.get("/v1/jobs"))[0]
        whole = history or job["status"] == "finished"
        return {
            "event": "polled",
            "job": job,
            "versions": json.loads(self.get("/v1/versions")) if whole else [],
            "rounds": self.rounds() if whole else [],
        }

    def final_adapter(self, layout: Layout) -> FinalAdapter:
        """The newest version, whole."""
        newest = json.loads(self.get("/v1/versions"))[-1]
        data = self.get(f"/v1/artifacts/{newest['snapshot_sha256']}")
        tensors = load(data)
        values = np.concatenate([tensors[tensor.name].reshape(-1) for tensor in layout.tensors])
        return FinalAdapter(data, values)


class History:
    """What the service tells of each round's guide and tasks, read soon after the round: with time it forgets
    guides.
    """

    def __init__(self) -> None:
        self._found: dict[int, dict[str, Any]] = {}

    def read(self, operator: Operator, rounds: Iterable[int], most: int = READ_AT_ONCE) -> None:
        """Read those of these rounds that are new, at most so many now. Raises CooperLLMError, as `get`."""
        for number in [number for number in rounds if number not in self._found][:most]:
            row = json.loads(operator.get(f"/v1/rounds/{number}"))
            self._found[number] = {name: value for name, value in row.items() if name != "reports"}

    def rows(self) -> list[dict[str, Any]]:
        """What was read, in order of rounds."""
        return [row for _, row in sorted(self._found.items())]


def round_rows(rounds: Sequence[Mapping[str, Any]], run: str, seed: int, ledger: Ledger) -> list[RoundRow]:
    """Join what the cloud knows of each round with the hashes that the devices computed."""
    rows = []
    for found in rounds:
        version = int(found["round"])
        score, moved = found["evaluation"], found["traffic_bytes"]
        rows.append(
            RoundRow(
                run=run,
                seed=seed,
                version=version,
                adapter_sha256=ledger.sha256_by_version.get(version, ""),
                device_sha256=ledger.copies(version),
                accuracy=score["correct"] / score["count"] if score else None,
                loss=score["loss"] if score else None,
                duration_s=max(found["closed_ms"] - found["opened_ms"], 0) / 1000,
                downlink_bytes={kind: size for kind, size in moved.items() if kind not in UPLINK_KINDS},
                uplink_bytes={kind: size for kind, size in moved.items() if kind in UPLINK_KINDS},
                diagnostics=found["diagnostics"],
                stage=found["stage"],
                split=found["split"],
            )
        )
    return rows


def guide_spans(details: Iterable[Mapping[str, Any]], device_by_task: Mapping[str, str]) -> list[Span]:
    """What the cloud did with each round's guide, segment by segment; what it sent is in the device's lanes.

    `details` is what History read.
    """
    found: list[Span] = []
    for row in details:
        number = int(row["round"])
        for made in row["guide_segments"]:
            name = "guide_coded" if made["level"] else "guide_sampled"
            found.append(_segment_span(SERVICE, name, number, made))
        for task in row["tasks"]:
            if (device := device_by_task.get(task["task_id"])) is not None:
                found += [_segment_span(device, "guide_sent", number, sent) for sent in task["guide_sent"]]
    return found


def _segment_span(who: str, name: str, number: int, row: Mapping[str, Any]) -> Span:
    return Span(who, name, float(row["start_ms"]), float(row["end_ms"]), number, int(row["segment"]))


def round_spans(rounds: Sequence[Mapping[str, Any]]) -> list[Span]:
    """The cloud's lane of the timeline: each round from its opening to its closing."""
    return [
        Span(SERVICE, "round", float(found["opened_ms"]), float(found["closed_ms"]), int(found["round"]))
        for found in rounds
        if found["closed_ms"]
    ]
