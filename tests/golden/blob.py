"""Golden files: JSON beside a binary of the same name that holds the arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
_ALIGNMENT_BYTES = 8


class Blob:
    """Collects arrays and cases, then writes both files."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.cases: list[dict[str, Any]] = []

    def put(self, array: NDArray[Any] | None) -> dict[str, Any] | None:
        """Append an array and return its reference."""
        if array is None:
            return None
        self._bytes.extend(b"\0" * (-len(self._bytes) % _ALIGNMENT_BYTES))
        reference = {"type": array.dtype.name, "offset_bytes": len(self._bytes), "count": int(array.size)}
        self._bytes.extend(array.astype(array.dtype.newbyteorder("<")).tobytes())
        return reference

    def write(self, folder: Path, name: str) -> None:
        """Write name.json and, where there are arrays, name.bin."""
        lines = ",\n".join("  " + json.dumps(case) for case in self.cases)
        (folder / f"{name}.json").write_text('{"cases": [\n' + lines + "\n]}\n")
        if self._bytes:
            (folder / f"{name}.bin").write_bytes(bytes(self._bytes))


def read_cases(name: str) -> list[dict[str, Any]]:
    """Return a golden file's cases with their arrays in place."""
    path = FOLDER / f"{name}.bin"
    data = path.read_bytes() if path.exists() else b""

    def resolve(value: Any) -> Any:
        if isinstance(value, dict) and "offset_bytes" in value:
            dtype = np.dtype(value["type"]).newbyteorder("<")
            return np.frombuffer(data, dtype, value["count"], value["offset_bytes"]).copy()
        if isinstance(value, dict):
            return {key: resolve(item) for key, item in value.items()}
        if isinstance(value, list):
            return [resolve(item) for item in value]
        return value

    cases: list[dict[str, Any]] = resolve(json.loads((FOLDER / f"{name}.json").read_text())["cases"])
    return cases
