"""The Kotlin device on this machine's JVM: built once a session, started as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.android import ROOT, TWIN, class_path


@dataclass(frozen=True)
class JvmDevice:
    """How its processes are started."""

    classpath: str

    @staticmethod
    def built() -> JvmDevice:
        """Builds it by the steps that a newcomer types, without their tests."""
        environment = {**os.environ, "PYTHON": sys.executable}
        subprocess.run([ROOT / "scripts" / "android", "--build"], check=True, env=environment)
        return JvmDevice(class_path())

    def start(
        self, server: str, state: Path, data: Path, *options: str, **pipes: Any
    ) -> subprocess.Popen[str]:
        """A device's process; it ends when the job does. Its events are lines of JSON on its output."""
        command = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-cp", self.classpath]
        command += [f"-Dexecutorch.twin.library={TWIN}", "org.cooperllm.executorch.DeviceMainKt"]
        command += ["--server", server, "--state", str(state), "--data", str(data), *options]
        return subprocess.Popen(command, text=True, **pipes)
