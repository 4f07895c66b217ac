"""What gRPC's statuses mean for a device: repeat the call, or which error of the tree to raise."""

from __future__ import annotations

import grpc

from .errors import (
    CooperLLMError,
    EnrollmentRefused,
    NotEnrolled,
    ProtocolMismatch,
    ScalarsMissing,
    ServerRefused,
    TaskLost,
    VersionRefused,
)
from .retry import Transient

_REPEATABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,  # a service that stops cancels what is under way
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}
_CODES = grpc.StatusCode
_MEANINGS: dict[tuple[str, grpc.StatusCode], tuple[type[CooperLLMError], str]] = {
    ("", _CODES.UNAUTHENTICATED): (NotEnrolled, "set this device's clock and enroll again"),
    ("Enroll", _CODES.PERMISSION_DENIED): (EnrollmentRefused, "give the token that its operator hands out"),
    ("CheckIn", _CODES.FAILED_PRECONDITION): (ProtocolMismatch, "update the app"),
    ("StreamGuides", _CODES.NOT_FOUND): (TaskLost, "check in again"),
    ("SendScalars", _CODES.NOT_FOUND): (TaskLost, "send no more of it"),
    ("SendReport", _CODES.OUT_OF_RANGE): (ScalarsMissing, "send the report with all its scalars"),
    ("SendReport", _CODES.NOT_FOUND): (TaskLost, "check in again"),
    ("SendReport", _CODES.DEADLINE_EXCEEDED): (TaskLost, "check in again"),
    ("SendReport", _CODES.FAILED_PRECONDITION): (VersionRefused, "fetch a snapshot and check in again"),
}


def meaning_of(method: str, error: grpc.RpcError, timed_out: bool) -> Transient | CooperLLMError:
    """What a gRPC status means for the caller, by the statuses that federation.proto lists.

    DEADLINE_EXCEEDED has two meanings: this device's patience ended (`timed_out`), or the lease of a report
    did. A service may end a call by this device's deadline too, a moment before it ends here.
    """
    code, detail = error.code(), error.details() or ""
    patience_ended = timed_out or method != "SendReport"
    if code in _REPEATABLE or (code is _CODES.DEADLINE_EXCEEDED and patience_ended):
        return Transient(f"{code.name.lower()}: {_one_line(detail)}")
    known = _MEANINGS.get((method, code)) or _MEANINGS.get(("", code))
    meaning, advice = known or (ServerRefused, "do not repeat it")
    return meaning(f"the service answered {method} with {code.name}: {_one_line(detail)}: {advice}")


def _one_line(detail: str) -> str:
    return " ".join(detail.split())[:200] or "no detail"
