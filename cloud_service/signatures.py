"""Who sent a request: the metadata that every request after Enroll carries, and what its signature covers.

Pure functions of texts and bytes, like wire.py's; each raises WireError(UNAUTHENTICATED, detail).
"""

from __future__ import annotations

import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_service import wire

MAX_CLOCK_DIFFERENCE_MS = 300_000

_CLIENT_ID = re.compile(r"[0-9a-f]{32}")
_TIME = re.compile(r"[0-9]{1,15}")


def check_identity(client_id: str, time_ms: str, now_ms: int) -> None:
    """Checks the form of the two metadata texts, and the device's clock."""
    if not _CLIENT_ID.fullmatch(client_id):
        raise wire.WireError("UNAUTHENTICATED", "cooperllm-client is missing or no client id: enroll first")
    if not _TIME.fullmatch(time_ms):
        raise wire.WireError("UNAUTHENTICATED", "cooperllm-time-ms is missing or no number of milliseconds")
    if abs(int(time_ms) - now_ms) > MAX_CLOCK_DIFFERENCE_MS:
        raise wire.WireError(
            "UNAUTHENTICATED", f"the clocks differ by more than 300 s: the cloud has {now_ms} ms since 1970"
        )


def signature_bytes(text: str) -> bytes:
    """The signature in a metadata text: DER in hex."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise wire.WireError("UNAUTHENTICATED", "cooperllm-signature is not in hex") from None


def check_signature(key_bytes: bytes, signature: bytes, signed: bytes) -> None:
    """Checks an ECDSA P-256 signature over SHA-256 of `signed` (see signed_call, signed_get)."""
    if not 0 < len(signature) <= 80:
        raise wire.WireError("UNAUTHENTICATED", "cooperllm-signature is missing or too long")
    try:
        wire.public_key(key_bytes).verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise wire.WireError(
            "UNAUTHENTICATED", "cooperllm-signature does not match the request and the enrolled key"
        ) from None


def signed_call(method_path: str, time_ms: str, request: bytes) -> bytes:
    """What a device signs for a gRPC call: method path, '\\n', time-ms, '\\n', the serialised request."""
    return f"{method_path}\n{time_ms}\n".encode() + request


def signed_get(path: str, time_ms: str) -> bytes:
    """What a device signs for an HTTP GET: "GET", ' ', path, '\\n', time-ms, '\\n'."""
    return f"GET {path}\n{time_ms}\n".encode()
