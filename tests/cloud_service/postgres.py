"""A PostgreSQL server for one test: in a folder of its own, reached by a socket there and not by network."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 30.0


def programs() -> Path | None:
    """The folder of Debian's newest server, or of whatever is on the path; None without one."""
    found = shutil.which("postgres")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return folders[-1].parent if folders else Path(found).resolve().parent if found else None


def _owner() -> tuple[list[str], int]:
    """What runs a program as somebody who may run a server, which root may not; and who that is."""
    if os.geteuid() != 0:
        return [], os.geteuid()
    user = pwd.getpwnam("postgres")
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], user.pw_uid


@contextmanager
def server(binaries: Path) -> Iterator[str]:
    """A fresh server's URL; the server and its folder are gone afterwards."""
    prefix, user = _owner()
    with tempfile.TemporaryDirectory(prefix="cooperllm-pg-") as name:
        os.chown(name, user, -1)
        data = Path(name) / "data"
        make = [*prefix, binaries / "initdb", "-D", data, "-U", "cooperllm", "--auth=trust", "--no-sync"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=name)
        run = [*prefix, binaries / "postgres", "-D", data, "-k", name, "-c", "listen_addresses="]
        with (Path(name) / "log").open("w") as log:
            process = subprocess.Popen(run, stdout=log, stderr=log, cwd=name)
        try:
            ask = [binaries / "pg_isready", "-q", "-h", name]
            end_s = time.monotonic() + START_S
            while subprocess.run(ask, check=False).returncode != 0:
                assert process.poll() is None, (Path(name) / "log").read_text()
                assert time.monotonic() < end_s, "the database did not start"
                time.sleep(0.05)
            yield f"postgresql+psycopg://cooperllm@/postgres?host={name}"
        finally:
            process.terminate()
            process.wait(START_S)
