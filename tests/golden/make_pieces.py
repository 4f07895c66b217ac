"""Writes versions of the golden bundle's adapter in pieces: `python -m tests.golden.make_pieces [FOLDER]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.bundle import layout_of, parse_manifest, read_adapter
from device_runtime.zo import grid, version
from device_runtime.zo.layout import Layout
from tests.golden.blob import FOLDER, Blob

# Name, the segments that move, and by how many grid steps: the standard deviation.
CASES = (
    ("all move", (0, 1, 2), 900.0),
    ("the head alone moves", (2,), 1.0),
    ("all move far", (0, 1, 2), 2e5),
)


def golden_layout() -> Layout:
    """The layout of the golden bundle."""
    path = FOLDER / "bundle" / "manifest.json"
    return layout_of(parse_manifest(path.read_bytes(), str(path)))


def main(arguments: list[str]) -> None:
    """Write the files."""
    layout, random, blob = golden_layout(), np.random.default_rng(64), Blob()
    before = read_adapter(FOLDER / "bundle" / "adapter.safetensors", layout)
    for name, segments, spread in CASES:
        after = before.copy()
        for tensor in layout.tensors:
            if tensor.segment in segments:
                steps = np.rint(random.normal(scale=spread, size=tensor.count))
                after[tensor.span] += grid.from_steps(steps, tensor.exponent)
        delta = _stored(blob, version.encode_delta(before, after, layout))
        case = {"name": name, "before": blob.put(before), "after": blob.put(after), "delta": delta}
        blob.cases.append(case | {"pieces": [_pieces(blob, before, after, layout, k) for k in segments]})
    blob.write(Path(arguments[0]) if arguments else FOLDER, "pieces")


def _pieces(
    blob: Blob, before: NDArray[np.float32], after: NDArray[np.float32], layout: Layout, segment: int
) -> dict[str, Any]:
    steps = version.encode_piece(before, after, layout, segment)
    whole = version.encode_piece(None, after, layout, segment)
    return {"segment": segment, "steps": _stored(blob, steps), "whole": _stored(blob, whole)}


def _stored(blob: Blob, data: bytes) -> dict[str, Any] | None:
    return blob.put(np.frombuffer(data, np.uint8))


if __name__ == "__main__":
    main(sys.argv[1:])
