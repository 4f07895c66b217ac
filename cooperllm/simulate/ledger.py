"""What the processes of one run have said so far: who holds which version, and what each is doing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cooperllm.simulate.processes import Event
from cooperllm.simulate.timeline import CLOUD, Span

SERVICE = CLOUD


def device_name(number: int) -> str:
    """Name a device's process, folder and row."""
    return f"device-{number}"


@dataclass
class Participant:
    """One device as its events describe it."""

    phase: str = "starting"
    version: int = -1
    sha256_by_version: dict[int, str] = field(default_factory=dict)
    form_by_version: dict[int, str] = field(default_factory=dict)
    downlink_bytes: int = 0
    uplink_bytes: int = 0
    skipped_examples: int = 0
    truncated_examples: int = 0
    starts: int = 1
    task_kind: str = ""
    finished: bool = False


@dataclass(frozen=True)
class Score:
    """One scored version."""

    accuracy: float
    loss: float


class Ledger:
    """Takes events in the order of their arrival; knows no process and draws nothing."""

    def __init__(self, devices: int, rounds: int) -> None:
        self.rounds = rounds
        self.devices = {device_name(number): Participant() for number in range(devices)}
        self.sha256_by_version: dict[int, str] = {}
        self.scores: dict[int, Score] = {}
        self.spans: list[Span] = []
        self.stage: Mapping[str, Any] | None = None  # of a chain, as the service tells it
        self.refusals: list[str] = []
        self.device_by_task: dict[str, str] = {}
        self.cloud_finished = False
        self.failure = ""

    @property
    def version(self) -> int:
        """The newest version that the cloud published; -1 before the first."""
        return max(self.sha256_by_version, default=-1)

    @property
    def finished(self) -> bool:
        """Whether the cloud and every device have said so."""
        return self.cloud_finished and all(device.finished for device in self.devices.values())

    @property
    def last_score(self) -> Score | None:
        """The newest score."""
        return self.scores[max(self.scores)] if self.scores else None

    def unequal(self) -> list[str]:
        """Every device copy that is not the cloud's, one line each."""
        return [
            f"{name} holds {sha256[:12]} as version {version}, "
            f"the cloud {self.sha256_by_version[version][:12]}"
            for name, device in self.devices.items()
            for version, sha256 in sorted(device.sha256_by_version.items())
            if version in self.sha256_by_version and sha256 != self.sha256_by_version[version]
        ]

    def copies(self, version: int) -> dict[str, str]:
        """The hash of every device that has held this version."""
        return {
            name: device.sha256_by_version[version]
            for name, device in self.devices.items()
            if version in device.sha256_by_version
        }

    def take(self, event: Event) -> None:
        """Account for one event; kinds that are unknown here are none of its business."""
        if event.child == SERVICE:
            self._take_cloud(event)
        elif event.child in self.devices:
            self._take_device(event, self.devices[event.child])

    def _take_cloud(self, event: Event) -> None:
        if event.kind != "polled":
            return
        job = event.body["job"]
        self.cloud_finished, self.failure = job["status"] == "finished", str(job["detail"])
        self.stage = job.get("stage")
        if job["version"] is not None:
            self.sha256_by_version[int(job["version"])] = str(job["adapter_sha256"])
        for found in event.body["versions"]:
            self.sha256_by_version[int(found["version"])] = str(found["adapter_sha256"])
        for found in event.body["rounds"]:
            if (score := found["evaluation"]) is not None:
                self.scores[int(found["round"])] = Score(
                    score["correct"] / score["count"], float(score["loss"])
                )

    def _take_device(self, event: Event, device: Participant) -> None:
        body = event.body
        if event.kind == "phase":
            device.phase = str(body["phase"])
        elif event.kind == "wait":
            device.phase = "wait"
        elif event.kind == "task":
            device.task_kind = str(body["kind"])
        elif event.kind in ("version", "finished"):
            device.version = int(body["version"])
            device.sha256_by_version[device.version] = str(body["adapter_sha256"])
            if body.get("form", "unchanged") != "unchanged":
                device.form_by_version[device.version] = str(body["form"])
            if event.kind == "finished":
                device.finished, device.phase = True, "finished"
        elif event.kind == "report":
            self._take_report(event, device)
        elif event.kind == "exited" and not device.finished:
            device.phase = "gone"

    def _take_report(self, event: Event, device: Participant) -> None:
        body = event.body
        self.device_by_task[str(body["task_id"])] = event.child
        device.downlink_bytes += int(body["downlink_bytes"])
        device.uplink_bytes += int(body["uplink_bytes"])
        device.skipped_examples = max(device.skipped_examples, int(body["skipped_examples"]))
        device.truncated_examples = max(device.truncated_examples, int(body["truncated_examples"]))
        # A device with few held-out examples declines to be evaluated: that is no fault, and costs no round.
        if body["status"] != "OK" and device.task_kind != "evaluate":
            self.refusals.append(f"{event.child}: {body['status']} {body['detail']}".strip())
        for span in body["spans"]:
            self.spans.append(
                Span(
                    event.child,
                    str(span["name"]),
                    float(span["start_ms"]),
                    float(span["end_ms"]),
                    body.get("round"),
                    span.get("segment"),
                )
            )
