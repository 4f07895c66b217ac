"""Writes the golden files of the adapter's arithmetic: `python -m tests.golden.make [FOLDER]`.

The NumPy reference is their author, apart from Philox's known answers, which Random123 publishes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.zo import direction as zo_direction
from device_runtime.zo import grid, philox, spsa, version
from device_runtime.zo.errors import LayoutError, ZoError
from device_runtime.zo.layout import Layout
from tests.golden import slice_cases
from tests.golden.blob import FOLDER, Blob
from tests.golden.slices import direction_of, slice_layout, slice_of, status_of, update_of

# Counter, key and output of philox4x32 with 10 rounds in Random123's kat_vectors.
KNOWN_ANSWERS = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)
_SLICES = ((0, 0), (0, 1), (0, 257), (5, 123), (127, 2), (1000, 1049), (2**40 + 77, 300), (2**63, 9))
_SEEDS = (0, 1, 0xDEADBEEF12345678, 2**64 - 1)


def words(text: str) -> list[int]:
    """Return space-separated hexadecimal words as numbers."""
    return [int(word, 16) for word in text.split()]


def write_philox(folder: Path) -> None:
    """Blocks from Random123, then signs and half-words of slices."""
    blob = Blob()
    for counter, key, output in KNOWN_ANSWERS:
        blob.cases.append({"counter": words(counter), "key": words(key), "output": words(output)})
    for seed in _SEEDS:
        for start, count in _SLICES:
            case: dict[str, Any] = {"seed": hex(seed), "start": hex(start), "count": count}
            case["signs"] = blob.put(philox.signs(seed, start, count).astype(np.int8))
            case["half_words"] = blob.put(philox.half_words(seed, start, count))
            blob.cases.append(case)
    blob.write(folder, "philox")


def write_grid(folder: Path) -> None:
    """Exponents for magnitudes, rounding with ties and zeros of both signs, and what a check answers."""
    blob = Blob()
    for magnitude in (0.0, 1e-9, 0.5, 0.99, 1.0, np.nextafter(1.0, 2.0), 2.0, 3.0, 1000.0, 1e30):
        chosen = grid.choose_exponent(float(magnitude))
        blob.cases.append({"max_magnitude": float(magnitude), "exponent": chosen})
    values = np.array([0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.25, -0.25, 7.999], np.float32)
    for exponent in (0, 1, 20, -1):
        rounded = grid.round_to_grid(values, exponent)
        blob.cases.append({"exponent": exponent, "values": blob.put(values), "rounded": blob.put(rounded)})
    for name, bad, exponent, status in slice_cases.ADAPTERS:
        adapter = np.array(bad, np.float32)
        case: dict[str, Any] = {
            "name": name,
            "exponent": exponent,
            "adapter": blob.put(adapter),
            "status": status,
        }
        try:
            grid.check_grid(adapter, exponent)
            accepted = True
        except LayoutError:
            accepted = False
        assert accepted == (status == "OK"), name
        blob.cases.append(case)
    blob.write(folder, "grid")


def write_directions(folder: Path) -> None:
    """k, lanes, and the adapter after +1 and then -2."""
    blob = Blob()
    for case in slice_cases.directions():
        layout = slice_layout(case["start"], len(case["adapter"]), case["exponent"])
        blob.cases.append(_stored(case, blob) | _direction_result(case, layout, blob))
    blob.write(folder, "directions")


def _direction_result(case: dict[str, Any], layout: Layout, blob: Blob) -> dict[str, Any]:
    direction, tensor, epsilon = direction_of(case, layout), slice_of(layout), case["epsilon"]
    try:
        k = zo_direction.rounded(direction, layout, epsilon)
    except ZoError as error:
        return {"status": status_of(error)}
    y = zo_direction.grid_units(direction, tensor, epsilon)
    off = np.rint(y) - y
    error_sum, norm_sum = zo_direction.squared_norms(direction, layout, epsilon)
    small = error_sum <= zo_direction.MAX_SQUARED_ERROR * norm_sum
    adapter = np.zeros(layout.parameters, np.float32)
    adapter[tensor.span] = case["adapter"]
    moved = []
    for multiplier in (+1, -2):
        spsa.perturb(adapter, layout, k, multiplier)
        moved.append(adapter[tensor.span].copy())
    return {
        "status": "OK",
        "judgement": "OK" if small else "BELOW_GRID",
        "k": blob.put(k[tensor.span].astype(np.int32)),
        "lanes_error": blob.put(zo_direction.lanes(off * off, tensor.offset)),
        "lanes_norm": blob.put(zo_direction.lanes(y * y, tensor.offset)),
        "plus": blob.put(moved[0]),
        "minus": blob.put(moved[1]),
    }


def write_updates(folder: Path) -> None:
    """The adapter after an update."""
    blob = Blob()
    for case in slice_cases.updates():
        layout = slice_layout(case["start"], len(case["adapter"]), case["exponent"])
        blob.cases.append(_stored(case, blob) | _update_result(case, layout, blob))
    blob.write(folder, "updates")


def _update_result(case: dict[str, Any], layout: Layout, blob: Blob) -> dict[str, Any]:
    adapter = np.zeros(layout.parameters, np.float32)
    adapter[slice_of(layout).span] = case["adapter"]
    try:
        clamped = spsa.apply_update(adapter, layout, update_of(case, layout))
    except ZoError as error:
        return {"status": status_of(error)}
    return {"status": "OK", "after": blob.put(adapter[slice_of(layout).span]), "clamped": clamped}


def _stored(value: Any, blob: Blob) -> Any:
    """Return a case with references in place of its arrays."""
    if isinstance(value, np.ndarray):
        return blob.put(value)
    if isinstance(value, dict):
        return {key: _stored(item, blob) for key, item in value.items()}
    if isinstance(value, list):
        return [_stored(item, blob) for item in value]
    return value


def write_layouts(folder: Path) -> None:
    """Layouts in order and their hashes."""
    blob = Blob()
    for entries in slice_cases.LAYOUTS:
        layout = Layout.build(entries)
        tensors = [
            {
                "name": tensor.name,
                "segment": tensor.segment,
                "shape": list(tensor.shape),
                "offset": tensor.offset,
                "exponent": tensor.exponent,
            }
            for tensor in layout.tensors
        ]
        blob.cases.append({"parameters": layout.parameters, "tensors": tensors, "sha256": layout.sha256()})
    blob.write(folder, "layout")


def write_deltas(folder: Path) -> None:
    """Deltas between neighbouring and between distant adapters. Layouts are the ones of layout.json."""
    blob = Blob()
    random = np.random.default_rng(5)
    for index, entries in enumerate(slice_cases.LAYOUTS):
        layout = Layout.build(entries)
        for spread in (1.0, 2.0**22):
            before, after = _adapter(layout, random, 2.0**22), _adapter(layout, random, 2.0**22)
            if spread == 1.0:
                after = before.copy()
                for tensor in layout.tensors:
                    after[tensor.span] += grid.from_steps(
                        np.rint(random.normal(size=tensor.count)), tensor.exponent
                    )
            delta = np.frombuffer(version.encode_delta(before, after, layout), np.uint8)
            case = {
                "layout": index,
                "before": blob.put(before),
                "after": blob.put(after),
                "delta": blob.put(delta),
            }
            blob.cases.append(case)
    blob.write(folder, "delta")


def _adapter(layout: Layout, random: np.random.Generator, steps: float) -> NDArray[np.float32]:
    adapter = np.zeros(layout.parameters, np.float32)
    for tensor in layout.tensors:
        whole_steps = np.rint(random.uniform(-steps, steps, tensor.count))
        adapter[tensor.span] = grid.from_steps(whole_steps, tensor.exponent)
    return adapter


def write_all(folder: Path) -> None:
    """Write every golden file of the adapter's arithmetic."""
    for write in (write_philox, write_grid, write_directions, write_updates, write_layouts, write_deltas):
        write(folder)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
