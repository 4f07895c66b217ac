"""The Kotlin device on this machine's JVM: built once a session, started as a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.android import ROOT, TWIN, class_path
from benchmarks.emulated import Emulator


@dataclass(frozen=True)
class JvmDevice:
    """How its processes are started."""

    classpath: str
    java: str = "java"
    twin: Path = TWIN

    @staticmethod
    def built() -> JvmDevice:
        """Builds it by the steps that a newcomer types, without their tests.

        Skips the test where Maven or a JDK is missing.
        """
        for tool in ("mvn", "javac"):
            if shutil.which(tool) is None:
                pytest.skip(f"{tool} is not installed: the Kotlin device is not tested here")
        environment = {**os.environ, "PYTHON": sys.executable}
        subprocess.run([ROOT / "scripts" / "android", "--build"], check=True, env=environment)
        return JvmDevice(class_path())

    def on(self, emulator: Emulator) -> JvmDevice:
        """The same classes on the emulated machine's Java, with a twin that was built for it."""
        return replace(self, java=str(emulator.folder / "java"), twin=emulator.folder / "twin" / TWIN.name)

    def start(
        self, server: str, state: Path, data: Path, *options: str, **pipes: Any
    ) -> subprocess.Popen[str]:
        """A device's process; it ends when the job does. Its events are lines of JSON on its output."""
        command = [self.java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-XX:-UsePerfData"]
        command += ["-cp", self.classpath]
        command += [f"-Dexecutorch.twin.library={self.twin}", "org.cooperllm.executorch.DeviceMainKt"]
        command += ["--server", server, "--state", str(state), "--data", str(data), *options]
        return subprocess.Popen(command, text=True, **pipes)
