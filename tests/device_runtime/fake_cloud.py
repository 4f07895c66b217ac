"""A cloud that answers from a script, and counts as Transport does: for sessions without a network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_runtime.errors import ArtifactError, ServerRefused
from protos import federation_pb2 as pb


@dataclass
class Counts:
    """Bytes; every call here costs 10 up and 100 down."""

    downlink_bytes: int = 0
    uplink_bytes: int = 0
    download_bytes_per_s: float = 0.0


@dataclass
class FakeCloud:
    """Answers check-ins and reports in the order of its script; an exception in it is raised."""

    replies: list[pb.CheckInReply | Exception] = field(default_factory=list)
    acks: list[pb.Ack | Exception] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    chunks: dict[str, list[pb.GuideChunk]] = field(default_factory=dict)
    enrolled: int = 0
    check_ins: list[pb.CheckInRequest] = field(default_factory=list)
    parts: list[pb.Scalars] = field(default_factory=list)
    part_acks: list[pb.ScalarsAck | Exception] = field(default_factory=list)
    reports: list[pb.Report] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    streamed: list[str] = field(default_factory=list)
    versions: list[bytes] = field(default_factory=list)
    traffic: Counts = field(default_factory=Counts)

    def _count(self) -> None:
        self.traffic.downlink_bytes += 100
        self.traffic.uplink_bytes += 10

    def serve(self, data: bytes) -> pb.Artifact:
        """Makes bytes an artifact."""
        digest = hashlib.sha256(data)
        self.artifacts[digest.hexdigest()] = data
        return pb.Artifact(sha256=digest.digest(), size_bytes=len(data))

    def serve_folder(self, folder: Path) -> bytes:
        """Makes a bundle's files artifacts; answers the bundle's SHA-256."""
        for path in folder.iterdir():
            self.serve(path.read_bytes())
        return hashlib.sha256((folder / "manifest.json").read_bytes()).digest()

    def enroll(self) -> pb.EnrollReply:
        self._count()
        self.enrolled += 1
        return pb.EnrollReply(client_id="fake", protocol_version=1)

    def check_in(self, request: pb.CheckInRequest) -> pb.CheckInReply:
        self._count()
        self.check_ins.append(request)
        return _answer(self.replies)

    def send_scalars(self, part: pb.Scalars) -> pb.ScalarsAck:
        self._count()
        self.parts.append(part)
        return (
            _answer(self.part_acks)
            if self.part_acks
            else pb.ScalarsAck(received=part.first + len(part.scalars))
        )

    def send_report(self, report: pb.Report) -> pb.Ack:
        self._count()
        self.reports.append(report)
        return _answer(self.acks) if self.acks else pb.Ack()

    def fetch(self, sha256: str, size_bytes: int | None, target: Path, most_bytes: int) -> None:
        self._count()
        self.fetched.append(sha256)
        if sha256 not in self.artifacts:
            raise ServerRefused(f"no artifact {sha256[:12]}")
        data = self.artifacts[sha256]
        if len(data) > most_bytes or hashlib.sha256(data).hexdigest() != sha256:
            raise ArtifactError("altered")
        target.write_bytes(data)

    def stream_guides(
        self, task_id: str, start: tuple[int, int, int], version: bytes = b""
    ) -> Iterator[pb.GuideChunk]:
        self._count()
        self.streamed.append(task_id)
        self.versions.append(version)
        for chunk in self.chunks[task_id]:
            if (chunk.segment, chunk.guide, chunk.offset_bytes) >= start:
                yield chunk


def _answer(script: list[Any]) -> Any:
    answer = script.pop(0)
    if isinstance(answer, Exception):
        raise answer
    return answer


def guide_chunks(slices: dict[int, bytes], most_bytes: int = 40) -> tuple[pb.Guide, list[pb.GuideChunk]]:
    """A guide of these segments' float32 bytes, a task's first, and its chunks."""
    sha256 = hashlib.sha256(b"".join(slices[segment] for segment in sorted(slices))).digest()
    pieces = [
        (segment, start, data[start : start + most_bytes])
        for segment, data in sorted(slices.items())
        for start in range(0, len(data), most_bytes)
    ]
    chunks = [
        pb.GuideChunk(
            segment=segment, encoding=pb.GUIDE_ENCODING_FLOAT32, offset_bytes=start,
            segment_size_bytes=len(slices[segment]), data=data, last=(segment, start, data) == pieces[-1],
            segment_sha256=hashlib.sha256(slices[segment]).digest(),
        )
        for segment, start, data in pieces
    ]  # fmt: skip
    return pb.Guide(sha256=sha256, segments=sorted(slices)), chunks
