"""The Kotlin device against `cooperllm serve` over TLS: a whole job, and certificates it must not trust."""

from __future__ import annotations

import datetime
import ipaddress
import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.emulated import NATIVE
from tests.device_runtime.toy_bundle import open_toy_bundle, toy_examples
from tests.integration.jvm_device import JvmDevice
from tests.integration.test_emulated_device import running
from tests.integration.test_jvm_device import TIMEOUT_S, device, events_of

pytestmark = pytest.mark.ci
ROUNDS = 3
JOB = """\
name = "tls"
bundle = "{bundle}"
start = "bundle"
scale = "none"
estimator = "isotropic"
rounds = {rounds}
cohort_size = 1
directions_per_task = 2
batch_examples = 8
epsilon = 0.01
retry_min_ms = 10
retry_max_ms = 30
seed = 3
"""


class Authority:
    """Signs certificates. Its own lies at `path`."""

    def __init__(self, path: Path) -> None:
        self.path, self._key = path, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.stem)])
        own = x509.BasicConstraints(ca=True, path_length=None)
        path.write_bytes(self._signed(path.stem, self._key, own))

    def sign(self, folder: Path, address: str) -> tuple[Path, Path]:
        """A certificate for one address of IP, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        certificate, private = folder / "certificate.pem", folder / "key.pem"
        certificate.write_bytes(self._signed("service", key, names))
        form, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        private.write_bytes(key.private_bytes(form, kind, serialization.NoEncryption()))
        return certificate, private

    def _signed(self, name: str, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
        made = made.not_valid_before(now - day).not_valid_after(now + day)
        signed = made.add_extension(extension, critical=False).sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Serving:
    """A service under way: its port on 127.0.0.1, who signed its certificate, and its database."""

    port: int
    authority: Path
    database: Path


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder / "authority.pem")
    certificate, key = authority.sign(folder, "127.0.0.1")
    bundle, job = open_toy_bundle(folder / "bundle"), folder / "job.toml"
    job.write_text(JOB.format(bundle=bundle.folder, rounds=ROUNDS))
    serve = ["serve", "--job", str(job), "--format", "json", "--grpc-port", "0", "--http-port", "0"]
    serve += ["--data-dir", str(folder / "cloud"), "--tls-cert", str(certificate), "--tls-key", str(key)]
    with running(NATIVE, *serve, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        where = json.loads(service.stdout.readline())
        assert where["http"].startswith("https://127.0.0.1:")
        port = int(where["grpc"].rpartition(":")[2])
        yield Serving(port, authority.path, folder / "cloud" / "cooperllm.db")


def refused(jvm: JvmDevice, server: str, folder: Path, authority: Path) -> str:
    """What a device says that ends without having sent anything, in one line."""
    with device(jvm, server, folder, toy_examples(40), "--authority", str(authority)) as kotlin:
        output, errors = kotlin.communicate(timeout=TIMEOUT_S)
    assert kotlin.returncode == 1
    assert errors.count("\n") == 1
    assert [json.loads(line).get("phase") for line in output.splitlines()] == ["enroll"]
    return errors


def test_a_job_over_tls_ends_with_the_clouds_adapter(
    tmp_path: Path, jvm: JvmDevice, serving: Serving
) -> None:
    server, options = f"127.0.0.1:{serving.port}", ("--authority", str(serving.authority))
    with device(jvm, server, tmp_path, toy_examples(200, seed=7), *options) as kotlin:
        events = events_of(kotlin)
    with closing(sqlite3.connect(serving.database)) as database:
        cloud = dict(database.execute("SELECT number, adapter_sha256 FROM versions"))
    assert len(set(cloud.values())) == ROUNDS + 1
    told: dict[Any, Any] = {e["version"]: e["adapter_sha256"] for e in events if e["event"] == "version"}
    assert told == cloud


def test_a_certificate_for_another_name_is_not_trusted(
    tmp_path: Path, jvm: JvmDevice, serving: Serving
) -> None:
    said = refused(jvm, f"localhost:{serving.port}", tmp_path, serving.authority)
    assert said.startswith("ServerUnreachable: the service's certificate is not trusted (")
    assert "localhost" in said
    assert "check the address" in said


def test_a_certificate_of_an_unknown_authority_is_not_trusted(
    tmp_path: Path, jvm: JvmDevice, serving: Serving
) -> None:
    other = Authority(tmp_path / "other.pem")
    said = refused(jvm, f"127.0.0.1:{serving.port}", tmp_path, other.path)
    assert said.startswith("ServerUnreachable: the service's certificate is not trusted (")
    assert "name the authority that signed it" in said
