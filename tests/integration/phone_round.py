"""A job of the real service for one device elsewhere, whose adapters must be the service's after every round.

    python -m tests.integration.phone_round COMMAND...

COMMAND runs the device until the job is finished; {grpc} and {http} in it become the service's two ports on
this machine. What it prints is searched for lines that end with `version NUMBER SHA256`.
.github/workflows/android.yml runs it with an Android emulator.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from cloud_service.serve import Service
from tests.cloud_service.small_service import small_job, started
from tests.device_runtime.toy_bundle import open_toy_bundle
from tests.integration.test_devices_and_service import JOB, published

_TOLD = re.compile(r"version (\d+) ([0-9a-f]{64})\s*$", re.MULTILINE)


def serve(folder: Path) -> tuple[Service, dict[str, str]]:
    """The service with a job for one device; and its ports."""
    bundle = open_toy_bundle(folder / "bundle")
    # An emulator is slow, and a lease that ends while it computes would end the test.
    settings = JOB | {"cohort_size": 1, "momentum": 0.0, "version_form": "record", "lease_s": 120.0}
    service, where = started(bundle, folder / "cloud", small_job(bundle, **settings))
    ports = {"grpc": where.grpc, "http": where.http}
    return service, {name: address.rstrip("/").rpartition(":")[2] for name, address in ports.items()}


def difference(told: dict[int, str], cloud: dict[int, str]) -> str:
    """What a device's adapters have to be told apart from the service's, in one line; empty: nothing."""
    if len(set(cloud.values())) != JOB["rounds"] + 1:
        return f"the job did not change the adapter in every round: {len(set(cloud.values()))} adapters"
    other = [number for number, sha256 in cloud.items() if told.get(number) != sha256]
    return f"the device has another adapter, or none, of version {other[0]}" if other else ""


def main(command: list[str]) -> int:
    """Runs the command beside the service; 0 when it ends well and all adapters are equal."""
    with tempfile.TemporaryDirectory() as folder:
        service, ports = serve(Path(folder))
        try:
            filled = [part.format(**ports) for part in command]
            ended = subprocess.run(filled, stdout=subprocess.PIPE, text=True, check=False)
            print(ended.stdout, flush=True)
            told = {int(number): sha256 for number, sha256 in _TOLD.findall(ended.stdout)}
            wrong = "" if ended.returncode == 0 else f"the command ended with {ended.returncode}"
            wrong = wrong or difference(told, published(service))
        finally:
            service.stop()
    print(wrong or f"{len(told)} versions, all adapters equal", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
