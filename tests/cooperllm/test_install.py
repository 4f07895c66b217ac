"""Simulated devices have keys that follow from the seed, and hold a bundle when they are given one."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cooperllm.simulate.install import place_bundle, place_key, private_key_pem
from device_runtime.bundle import Bundle
from device_runtime.store import Store
from tests.cloud_service.small_bundle import write_bundle


def test_keys_follow_from_seed_and_number() -> None:
    keys = {private_key_pem(seed, device) for seed in (0, 1) for device in range(4)}
    assert len(keys) == 8
    assert private_key_pem(0, 3) == private_key_pem(0, 3)
    key = load_pem_private_key(private_key_pem(0, 0), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)


def test_a_key_that_is_there_stays(tmp_path: Path) -> None:
    place_key(tmp_path, 0, 0)
    place_key(tmp_path, 1, 1)
    with Store(tmp_path) as store:
        assert store.read_key() == private_key_pem(0, 0)


def test_an_installed_bundle_passes_every_check_under_its_hash(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    place_bundle(tmp_path / "device", bundle)
    with Store(tmp_path / "device") as store:
        assert Bundle.open(store.path("bundles", bundle.sha256), bundle.sha256).layout == bundle.layout
