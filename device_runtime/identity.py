"""A device's identity: one EC P-256 key, made on the device, whose private half never leaves it."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Identity:
    """A private key and what follows from it: the public key, the client id and signatures."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.client_id = hashlib.sha256(self.public_key).hexdigest()[:32]

    @staticmethod
    def generate() -> Identity:
        """Makes a new key from the operating system's randomness."""
        return Identity(ec.generate_private_key(ec.SECP256R1()))

    @staticmethod
    def from_pem(pem: bytes) -> Identity | None:
        """The identity in a PEM file, or None when it holds no P-256 key: then make a new one."""
        try:
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError):
            return None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            return None
        return Identity(key)

    def pem(self) -> bytes:
        """The private key in PEM (PKCS #8), for the device's own store."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign_call(self, method: str, time_ms: int, request: bytes) -> bytes:
        """Signs a gRPC request: ECDSA over SHA-256 (DER) of method path, newline, time, newline, serialised
        request.
        """
        return self._key.sign(f"{method}\n{time_ms}\n".encode() + request, ec.ECDSA(hashes.SHA256()))

    def sign_get(self, path: str, time_ms: int) -> bytes:
        """Signs an HTTP GET: ECDSA over SHA-256 (DER) of "GET", space, path, newline, time, newline."""
        return self._key.sign(f"GET {path}\n{time_ms}\n".encode(), ec.ECDSA(hashes.SHA256()))
