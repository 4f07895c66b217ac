"""The demo app under Robolectric, in a real job of a real service, with MiniLM or a tiny program.

python -m tests.integration.demo_app FOLDER    draws its screens, with MiniLM, into FOLDER (about two minutes)

FOLDER is android_demo/screens in this repository. Needs what scripts/android needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cooperllm.simulate import shards
from cooperllm.simulate.material import Sources, load, write_examples
from cooperllm.simulate.model_cache import exported_bundle
from cooperllm.simulate.shards import Sharding
from device_runtime.examples import Example
from tests.integration.jvm_device import ROOT, JvmDevice

TIMEOUT_S = 600
OTHERS = 2
NOTES = 48
MINILM = {
    "rounds": 24,
    "cohort_size": 1 + OTHERS,
    "directions_per_task": 64,
    "batch_examples": 32,
    "learning_rate": 0.02,
}
_MODULE = ROOT / "android_demo" / "target"
_TOOLS = ROOT / "device_runtime" / "android" / "target" / "tools"
_TWIN = ROOT / "build" / "android_twin" / "libexecutorch_twin.so"


@dataclass(frozen=True)
class Session:
    """A job's material: where the program comes from, what the app's user wrote, what other devices hold."""

    bundle: Path
    public: Path
    notes: Sequence[Example]
    others: Sequence[Sequence[Example]]
    settings: dict[str, Any]


def minilm() -> Session:
    """Requests to a phone in eight classes, as `cooperllm simulate` has them."""
    pools = load(Sources())
    bundle, _ = exported_bundle("", pools.class_names)
    parts = shards.shard(pools.private, len(pools.private) // NOTES, Sharding(), seed=11)
    public = ROOT / "cooperllm" / "data" / "public.tsv"
    return Session(bundle, public, parts[0][:NOTES], parts[1 : 1 + OTHERS], MINILM)


@contextmanager
def service(session: Session, folder: Path) -> Iterator[str]:
    """HOST:PORT of the real service, as an operator would start it."""
    table = {"name": "sorted", "bundle": str(session.bundle), "public": str(session.public)}
    table |= {"evaluate_every_rounds": 0, "retry_min_ms": 50, "retry_max_ms": 150} | session.settings
    job = folder / "job.toml"
    job.write_text(
        "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()), encoding="utf-8"
    )
    command = [sys.executable, "-m", "cooperllm", "serve", "--job", str(job), "--format", "json"]
    command += ["--grpc-port", "0", "--http-port", "0", "--data-dir", str(folder / "cloud")]
    with _process(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        yield json.loads(running.stdout.readline())["grpc"]


@contextmanager
def _process(command: list[str], **pipes: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, text=True, cwd=ROOT, **pipes) as running:
        try:
            yield running
        finally:
            running.terminate()


def run(session: Session, folder: Path, screens: Path | None = None) -> list[str]:
    """Build the app, run it in the session beside the other devices, answer what it printed.

    Raises AssertionError, with what the app's test said, when its screens are not as they should be.
    """
    JvmDevice.built()
    notes = write_examples(folder / "notes.tsv", list(session.notes))
    with ExitStack() as running:
        server = running.enter_context(service(session, folder))
        for number, examples in enumerate(session.others):
            data = write_examples(folder / f"other-{number}.tsv", list(examples))
            command = [sys.executable, "-m", "cooperllm", "device", "--server", server, "--data", str(data)]
            command += ["--state", str(folder / f"other-{number}"), "--until-finished"]
            silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            running.enter_context(_process(command, **silent))
        properties = {"server": server, "notes": notes, "screens": screens.resolve() if screens else ""}
        done = _app(properties, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def figures(said: list[str]) -> dict[str, int]:
    """What its last screens showed: notes checked, right at first and now; messages, numbers, bytes sent."""
    line = next(line for line in said if "shown: " in line)
    words = line.split("shown: ")[1].split()
    return {name: int(value) for name, value in (word.split("=") for word in words)}


def _app(properties: dict[str, object], folder: Path) -> subprocess.CompletedProcess[str]:
    """The app's test in a virtual machine of its own, with the options that Maven gives its tests."""
    fetched = (_MODULE / "test-classpath.txt").read_text().strip()
    entries = [_MODULE / "test-classes", _MODULE / "classes", _TOOLS / "monitor.jar"]
    classpath = os.pathsep.join([*map(str, entries), fetched])
    command = ["java", "-Xmx1g", f"-Djava.io.tmpdir={folder}", "-cp", classpath]
    for package in ("lang", "util", "net"):
        command += ["--add-opens", f"java.base/java.{package}=ALL-UNNAMED"]
    command += ["-Drobolectric.conscryptMode=OFF", "-Drobolectric.offline=true"]
    command += [f"-Drobolectric.dependency.dir={_TOOLS / 'robolectric'}"]
    command += [f"-Dexecutorch.twin.library={_TWIN}"]
    command += [f"-Dcooperllm.{name}={value}" for name, value in properties.items()]
    command += ["org.junit.runner.JUnitCore", "org.cooperllm.demo.RealSessionTest"]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=TIMEOUT_S, check=False)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print("\n".join(run(minilm(), Path(scratch), Path(sys.argv[1]))))
