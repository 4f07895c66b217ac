"""The comparison that the Android workflow makes, here with a Python device in the phone's place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.integration.phone_round import difference, main

pytestmark = pytest.mark.ci
_DEVICE = """
import sys
from device_runtime.device import Device
from tests.device_runtime.toy_bundle import toy_examples

def tell(event):
    if event.name == "version" and event.fields["version"] != int(sys.argv[3]):
        print("I CooperLLM: version", event.fields["version"], event.fields["adapter_sha256"])

server, store, _ = sys.argv[1:]
device = Device(server="127.0.0.1:" + server, store=store, examples=toy_examples(200), on_event=tell)
with device:
    device.run_until_finished()
"""


@pytest.mark.parametrize(
    ("silent_about", "code", "said"),
    [
        (-1, 0, "5 versions, all adapters equal"),
        (2, 1, "the device has another adapter, or none, of version 2"),
    ],
)
def test_a_device_that_tells_of_every_version_passes_and_no_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], silent_about: int, code: int, said: str
) -> None:
    command = [sys.executable, "-c", _DEVICE, "{grpc}", str(tmp_path / "device"), str(silent_about)]
    assert main(command) == code
    assert capfd.readouterr().err.strip().endswith(said)


def test_a_command_that_fails_and_a_job_that_changed_nothing_are_told(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main([sys.executable, "-c", "raise SystemExit(3)"]) == 1
    assert capfd.readouterr().err.strip().endswith("the command ended with 3")
    assert "did not change the adapter" in difference({0: "a", 1: "a"}, {0: "a", 1: "a"})
