"""All checks of what devices send. Nothing that passed here is checked again; nothing is used that did not
pass.

Pure functions of messages and bytes. Each raises WireError(status, detail) with one of gRPC's status names;
the caller answers the device with it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from google.protobuf.message import DecodeError, Message

from protos import federation_pb2 as pb

PROTOCOL_VERSION = 1
MAX_MESSAGE_BYTES = 4 << 20
MAX_SPANS = 4096
MAX_SEGMENTS = 4096
MAX_U32 = 2**32 - 1
SCORE_TOLERANCE = 1e-6  # a CKA of 1, computed, may lie a little above it

_SHA256_HEX = re.compile(r"[0-9a-f]{64}")

AnyMessage = TypeVar("AnyMessage", bound=Message)


class WireError(Exception):
    """A request that breaks a rule. Answer it with `status` (a gRPC status name) and `detail` (one line)."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


def _require(condition: bool, detail: str) -> None:
    if not condition:
        raise WireError("INVALID_ARGUMENT", detail)


def _one_line(text: str, name: str, longest: int) -> None:
    _require(len(text) <= longest, f"{name} has more than {longest} characters")
    _require(text.isprintable(), f"{name} has characters that cannot be printed")


def _name(text: str, name: str) -> None:
    _require(0 < len(text) <= 64, f"{name} must have 1 to 64 characters")
    _one_line(text, name, 64)


def _finite(values: Iterable[float], name: str) -> None:
    _require(all(map(math.isfinite, values)), f"{name} has a value that is not finite")


def _within(scalars: Iterable[float], clip: float) -> None:
    # Rounding to float32 may lift a clipped scalar by half a unit in its last place.
    if clip > 0:
        most = clip * (1 + 2.0**-23)
        _require(all(abs(value) <= most for value in scalars), "scalars exceed the task's clip")


def _hash(value: bytes, name: str, may_be_empty: bool) -> None:
    allowed = (0, 32) if may_be_empty else (32,)
    _require(len(value) in allowed, f"{name} has {len(value)} bytes, not 32")


def is_sha256_hex(text: str) -> bool:
    """Whether a text is a SHA-256 in lower-case hex, and so safe as a file name."""
    return _SHA256_HEX.fullmatch(text) is not None


def parse(message: AnyMessage, data: bytes) -> AnyMessage:
    """Fills an empty message from bytes of the wire."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(
            "RESOURCE_EXHAUSTED", f"the message has {len(data)} bytes, at most {MAX_MESSAGE_BYTES} are read"
        )
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise WireError("INVALID_ARGUMENT", f"this is no {message.DESCRIPTOR.name}") from None
    return message


def client_id_of(public_key: bytes) -> str:
    """The client id of a key: hex of the first 16 bytes of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:32]


def public_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """Reads an EC P-256 key in SubjectPublicKeyInfo (DER)."""
    _require(0 < len(data) <= 256, f"public_key has {len(data)} bytes, not 1 to 256")
    try:
        key = load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm, TypeError):
        raise WireError("INVALID_ARGUMENT", "public_key is no DER SubjectPublicKeyInfo") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise WireError("INVALID_ARGUMENT", "public_key is no EC P-256 key")
    return key


def check_enroll(request: pb.EnrollRequest, enrollment_token: str) -> str:
    """Checks an enrollment and answers the client id."""
    public_key(request.public_key)
    _one_line(request.device_name, "device_name", 64)
    if enrollment_token and not _same_text(request.enrollment_token, enrollment_token):
        raise WireError(
            "PERMISSION_DENIED", "this service asks for an enrollment token: ask its operator for one"
        )
    return client_id_of(request.public_key)


def _same_text(given: str, wanted: str) -> bool:
    # Comparing hashes keeps the time independent of how much of the token is right.
    return hashlib.sha256(given.encode()).digest() == hashlib.sha256(wanted.encode()).digest()


def is_token(given: str, wanted: str) -> bool:
    """Whether a bearer token is the operator's. An empty one never is."""
    return bool(wanted) and _same_text(given, wanted)


def check_check_in(request: pb.CheckInRequest) -> None:
    """Checks a check-in."""
    if request.protocol_version != PROTOCOL_VERSION:
        raise WireError(
            "FAILED_PRECONDITION",
            f"protocol_version {request.protocol_version} is not spoken here, "
            f"{PROTOCOL_VERSION} is: update the app",
        )
    _hash(request.bundle_sha256, "bundle_sha256", may_be_empty=True)
    _hash(request.adapter_sha256, "adapter_sha256", may_be_empty=True)
    _require(request.adapter_version < 2**63, "adapter_version is too large")
    _require(request.HasField("budget"), "budget is missing")
    _require(request.budget.min_batch_examples >= 8, "budget.min_batch_examples is below 8")
    _rate(request.download_bytes_per_s, "download_bytes_per_s")


def _rate(bytes_per_s: float, name: str) -> None:
    _require(math.isfinite(bytes_per_s) and bytes_per_s >= 0, f"{name} is not a finite number of at least 0")


def check_stream_guides(request: pb.StreamGuidesRequest) -> None:
    """Checks a request for guides."""
    _name(request.task_id, "task_id")
    _require(len(request.version) in (0, 32), "version is no name: empty, or 32 bytes")


def check_scalars(part: pb.Scalars) -> None:
    """Checks everything about scalars ahead of their report that does not depend on their task."""
    _name(part.task_id, "task_id")
    _require(len(part.scalars) > 0, "scalars is empty")
    _finite(part.scalars, "scalars")


def check_part(part: pb.Scalars, scalars: int, clip: float) -> None:
    """Checks them against their task, which asked for so many."""
    end = part.first + len(part.scalars)
    _require(end <= scalars, f"scalars ends at {end}, the task asked for {scalars}")
    _within(part.scalars, clip)


def check_report(report: pb.Report) -> None:
    """Checks everything about a report that does not depend on its task."""
    _name(report.task_id, "task_id")
    _name(report.report_id, "report_id")
    _one_line(report.detail, "detail", 512)
    known = report.status in pb.ReportStatus.values() and report.status != pb.REPORT_STATUS_UNSPECIFIED
    _require(known, f"status {report.status} is unknown")
    _hash(report.adapter_sha256, "adapter_sha256", may_be_empty=report.status != pb.REPORT_STATUS_OK)
    _finite(report.scalars, "scalars")
    _finite(report.segment_scores, "segment_scores")
    _check_timing(report.timing)


def _check_timing(timing: pb.Timing) -> None:
    _require(len(timing.spans) <= MAX_SPANS, f"timing has more than {MAX_SPANS} spans")
    for span in timing.spans:
        _one_line(span.name, "timing.spans.name", 32)
        finite = math.isfinite(span.start_ms) and math.isfinite(span.end_ms)
        _require(
            finite and 0 <= span.start_ms <= span.end_ms, "timing.spans: start_ms and end_ms are out of order"
        )
    _require(len(timing.segment_ms) <= MAX_SEGMENTS, f"timing has more than {MAX_SEGMENTS} segments")
    _require(
        all(math.isfinite(ms) and ms >= 0 for ms in timing.segment_ms),
        "timing.segment_ms has a value that is not a finite number of at least 0",
    )
    _rate(timing.download_bytes_per_s, "timing.download_bytes_per_s")
    for name in ("downlink_bytes", "uplink_bytes", "segment_runs", "pair_runs"):
        _require(getattr(timing, name) < 2**63, f"timing.{name} is too large")


def check_directions_report(report: pb.Report, scalars: int, adapter_sha256: bytes, clip: float) -> None:
    """Checks an OK report against its directions task, which asked for so many scalars about this adapter."""
    _check_adapter(report, adapter_sha256)
    _require(
        len(report.scalars) == scalars,
        f"scalars has {len(report.scalars)} values, the task asked for {scalars}",
    )
    _require(report.examples >= 8, "examples is below 8: a batch has at least 8 distinct ones")
    _within(report.scalars, clip)


def check_evaluation_report(report: pb.Report, adapter_sha256: bytes) -> None:
    """Checks an OK report against its evaluation task."""
    _check_adapter(report, adapter_sha256)
    _require(report.HasField("evaluation"), "evaluation is missing")
    evaluation = report.evaluation
    _require(
        math.isfinite(evaluation.loss) and evaluation.loss >= 0,
        "evaluation.loss is not a finite number of at least 0",
    )
    _require(evaluation.count >= 1, "evaluation.count is 0")
    _require(evaluation.correct <= evaluation.count, "evaluation.correct is larger than evaluation.count")


def check_scores_report(report: pb.Report, scores: int, adapter_sha256: bytes) -> None:
    """Checks an OK report against its task, which asked for so many segment scores about this adapter."""
    _check_adapter(report, adapter_sha256)
    given = report.segment_scores
    _require(len(given) == scores, f"segment_scores has {len(given)} values, the task asked for {scores}")
    in_range = all(-SCORE_TOLERANCE <= score <= 1.0 + SCORE_TOLERANCE for score in given)
    _require(in_range, "segment_scores has a value outside 0 to 1")
    _require(not report.scalars, "scalars has values, the task asked for segment scores alone")
    _require(report.examples >= 8, "examples is below 8: a batch has at least 8 distinct ones")


def _check_adapter(report: pb.Report, adapter_sha256: bytes) -> None:
    if report.adapter_sha256 != adapter_sha256:
        raise WireError(
            "FAILED_PRECONDITION",
            "adapter_sha256 is not the task's: drop the report, check in again "
            "without a version to get a snapshot",
        )
