"""What a device's folder holds before its first start: a key that follows from the seed; maybe the bundle."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from device_runtime.bundle import Bundle
from device_runtime.store import Store

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Order of P-256's base point (FIPS 186-4, D.1.2.3)."""


def private_key_pem(seed: int, device: int) -> bytes:
    """Derive a P-256 private key, PEM (PKCS #8): SHA-512 of seed and number, modulo the group's order.

    So client ids, and with them the order of every sum, repeat with the seed. For simulations only: whoever
    knows the seed knows the key.
    """
    digest = hashlib.sha512(f"cooperllm simulated device {seed} {device}".encode()).digest()
    scalar = int.from_bytes(digest, "big") % (_ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def place_key(folder: Path, seed: int, device: int) -> None:
    """Put the derived key where the device process will find it, unless it has one from an earlier start."""
    with Store(folder) as store:
        if store.read_key() is None:
            store.write_key(private_key_pem(seed, device))


def place_bundle(folder: Path, bundle: Bundle) -> None:
    """Put the bundle where the device keeps it, as an app that ships with one does: no download then."""
    with Store(folder) as store:
        target = store.path("bundles", bundle.sha256)
    target.mkdir(exist_ok=True)
    for file in bundle.folder.iterdir():
        try:
            os.link(file, target / file.name)
        except OSError:  # another file system, or one without links
            shutil.copyfile(file, target / file.name)
