"""Runs programs and tests of this checkout, here and on the emulated arm64 machine of scripts/emulator."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Machine:
    """A Python, and what comes before it: this machine's, or the emulated one's."""

    python: str

    def command(self, module: str, *arguments: str) -> list[str]:
        """What starts `python -m module arguments`; run it with `environment` in the checkout."""
        return [self.python, "-m", module, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """One thread, and this checkout's Python files."""
        return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def ask(self, module: str, *arguments: str, timeout_s: float) -> Any:
        """What a program prints as JSON in its last line.

        Raises RuntimeError with what the program said when it fails; show it.
        """
        return json.loads(self._run(module, *arguments, timeout_s=timeout_s).splitlines()[-1])

    def passed_tests(self, *arguments: str, timeout_s: float) -> int:
        """How many tests of this checkout passed there. Raises RuntimeError when one did not."""
        given = ("-q", "-p", "no:cacheprovider", *arguments)
        last = self._run("pytest", *given, timeout_s=timeout_s).splitlines()[-1]
        counted = re.fullmatch(r"(\d+) passed(, \d+ deselected)? in .*", last)
        if counted is None:
            raise RuntimeError(f"not all of the tests passed: {last}")
        return int(counted[1])

    def _run(self, module: str, *arguments: str, timeout_s: float) -> str:
        command = self.command(module, *arguments)
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self.environment,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout


@dataclass(frozen=True)
class Emulator(Machine):
    """The emulated machine, in the folder that scripts/emulator keeps."""

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> Emulator:
        """The one that was set up there."""
        return cls(str(folder / "python"), folder)

    @property
    def launcher(self) -> str:
        """A program that runs any arm64 program."""
        return str(self.folder / "run")


def set_up() -> Emulator:
    """The emulated machine, set up where it is not. Raises RuntimeError: scripts/emulator has said why."""
    command = [str(ROOT / "scripts" / "emulator"), "--set-up"]
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError("the emulated machine could not be set up, see above")
    return Emulator.at(Path(done.stdout.splitlines()[-1]))


NATIVE = Machine(sys.executable)
