"""In the place of a Transport, for a device that only uses what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from protos import federation_pb2 as pb

from .errors import OptionError
from .transport import Traffic


class Offline:
    """Every call to the cloud is a mistake here. Raises OptionError."""

    def __init__(self) -> None:
        self.traffic = Traffic()

    def enroll(self) -> pb.EnrollReply:
        """Raises OptionError."""
        self._refuse()

    def check_in(self, request: pb.CheckInRequest) -> pb.CheckInReply:
        """Raises OptionError."""
        self._refuse()

    def send_scalars(self, part: pb.Scalars) -> pb.ScalarsAck:
        """Raises OptionError."""
        self._refuse()

    def send_report(self, report: pb.Report) -> pb.Ack:
        """Raises OptionError."""
        self._refuse()

    def fetch(self, sha256: str, size_bytes: int | None, target: Path, most_bytes: int) -> None:
        """Raises OptionError."""
        self._refuse()

    def stream_guides(
        self, task_id: str, start: tuple[int, int, int], version: bytes
    ) -> Iterator[pb.GuideChunk]:
        """Raises OptionError."""
        self._refuse()

    def close(self) -> None:
        """Does nothing."""

    @staticmethod
    def _refuse() -> NoReturn:
        raise OptionError(
            "this device was given no server: give one to take part, or to fetch what is missing"
        )
