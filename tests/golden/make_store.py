"""Writes the store that the Kotlin device must be able to open: `python -m tests.golden.make_store [FOLDER]`.

store/python is this file's; store/kotlin has the same content and is written by the Kotlin tests
(GoldenStore), for the Python device to open. The lock and empty folders are left out.
"""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path

from device_runtime.store import State, Store
from tests.golden.blob import FOLDER

KEY = b"a key in PEM\n"
ADAPTER = bytes(range(40))
GUIDE = bytes(range(100, 116))
PERSONAL = b'{"steps": 3}\n' + bytes(range(200, 208))
GUIDE_NAME = "ef" * 32
TASK = "task-é"
SCALARS = [0.125, -2.5, 1e-300, 3.4e38, 1e-5, 12345678.0, struct.unpack("<f", struct.pack("<f", 0.1))[0]]


def write_store(folder: Path) -> State:
    """Writes the store and returns its state."""
    with Store(folder, lambda: 0.0) as store:
        store.write_key(KEY)
        store.write_adapter(7, ADAPTER)
        guide = store.write("guides", GUIDE)
        store.write_personal(PERSONAL)
        store.progress.add(TASK, SCALARS[:2])
        store.progress.add(TASK, SCALARS[2:])
        state = store.update(
            bundle_sha256="ab" * 32,
            pending_report="00ff",
            pending_round=3,
            disclosed={"2": [4, 0], "3": [8, 1]},
            evaluated={"3": "cd" * 32},
            guides={GUIDE_NAME: {"0": [1, guide], "2": [2, guide]}},
            disclosures=[[1.5e12, 3, "directions", 8, 1, 120]],
        )
    (folder / "lock").unlink()
    for path in list(folder.iterdir()):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return state


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / "store" / "python"
    shutil.rmtree(target, ignore_errors=True)
    write_store(target)
