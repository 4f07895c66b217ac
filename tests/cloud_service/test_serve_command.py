"""`cooperllm serve` as a process: what it prints, how it stops, and what bad input looks like."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from device_runtime.bundle import Bundle
from tests.cloud_service.fake_device import FakeDevice, json_get
from tests.cloud_service.small_bundle import small_layout, write_bundle

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "import sys; from cooperllm.cli import main; sys.exit(main())", "serve"]
START_S = 120


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "small")


def job_file(folder: Path, bundle: Bundle, more: str = "") -> Path:
    file = folder / "job.toml"
    file.write_text(
        f'name = "small"\nbundle = "{bundle.folder}"\nestimator = "isotropic"\nscale = "none"\n'
        f'start = "bundle"\nrounds = 2\ncohort_size = 1\nepsilon = 0.01\nretry_min_ms = 10\n{more}'
    )
    return file


def refused(arguments: list[str], limit_bytes: int | None = None) -> tuple[int, str]:
    """Exit code and stderr of a service that must not come up."""

    def limited() -> None:
        if limit_bytes is not None:  # stands for a full disk: no file can grow beyond it
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    done = subprocess.run(
        [*PROGRAM, *arguments, "--grpc-port", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_S,
        preexec_fn=limited,
        check=False,
    )
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("cooperllm: ")
    return done.returncode, done.stderr


def test_serves_a_job_and_stops_when_asked(bundle: Bundle, tmp_path: Path) -> None:
    arguments = ["--job", str(job_file(tmp_path, bundle)), "--data-dir", str(tmp_path / "data")]
    arguments += ["--grpc-port", "0", "--http-port", "0", "--format", "json"]
    with subprocess.Popen(
        [*PROGRAM, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ready = json.loads(process.stdout.readline())
        device = FakeDevice(0, ready["grpc"], small_layout())
        device.session()
        token = Path(ready["operator_token_file"]).read_text().strip()
        assert json_get(ready["http"] + "/v1/jobs", token)[0]["status"] == "finished"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


def test_a_port_in_use(bundle: Bundle, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ["--job", str(job_file(tmp_path, bundle)), "--data-dir", str(tmp_path / "data")]
        code, line = refused([*arguments, "--http-port", port])
    assert code == 2
    assert "choose another --http-port" in line


def test_a_full_disk(bundle: Bundle, tmp_path: Path) -> None:
    arguments = ["--job", str(job_file(tmp_path, bundle)), "--data-dir", str(tmp_path / "data")]
    code, line = refused([*arguments, "--http-port", "0"], limit_bytes=20_000)
    assert code == 1
    assert "start again" in line


def test_an_altered_bundle(tmp_path: Path) -> None:
    altered = write_bundle(tmp_path / "bundle")
    altered.program_path.write_bytes(b"NO program")
    arguments = ["--job", str(job_file(tmp_path, altered)), "--data-dir", str(tmp_path / "data")]
    code, line = refused([*arguments, "--http-port", "0"])
    assert code == 2
    assert "altered" in line


def test_a_wrong_job(bundle: Bundle, tmp_path: Path) -> None:
    arguments = ["--job", str(job_file(tmp_path, bundle, "lerning_rate = 1\n")), "--data-dir", str(tmp_path)]
    code, line = refused([*arguments, "--http-port", "0"])
    assert code == 2
    assert "unknown key lerning_rate" in line


def test_a_service_without_public_data_never_imports_torch(bundle: Bundle, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from cloud_service.job import read_job\n"
        "from cloud_service.public_data import public_side\n"
        "from cloud_service.serve import ServeOptions, Service\n"
        "from device_runtime.bundle import Bundle; job = read_job(Path(sys.argv[1]))\n"
        "bundle = Bundle.open(job.bundle)\n"
        "options = ServeOptions(Path(sys.argv[2]), grpc_port=0, http_port=0)\n"
        "service = Service(job, bundle, public_side(job, bundle), options); service.start()\n"
        "print(service.stop(), 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    arguments = [str(job_file(tmp_path, bundle)), str(tmp_path / "data")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False", "False"]
