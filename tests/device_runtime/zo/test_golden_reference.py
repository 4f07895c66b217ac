"""The NumPy reference against the golden files, and the files against the script that writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_runtime.core import kernels
from device_runtime.zo import grid, philox, version
from device_runtime.zo.layout import Layout, LayoutTensor
from tests.golden import make, make_pieces
from tests.golden.blob import FOLDER, read_cases


def test_philox_gives_the_answers_that_random123_publishes() -> None:
    for counter, key, output in make.KNOWN_ANSWERS:
        key_0, key_1 = make.words(key)
        blocks = philox.philox4x32(np.array([make.words(counter)], np.uint32), (key_0, key_1))
        assert blocks[0].tolist() == make.words(output)


@pytest.mark.parametrize("name", ["philox", "grid", "directions", "updates", "layout", "delta"])
def test_the_reference_still_writes_the_golden_files(name: str, tmp_path: Path) -> None:
    make.write_all(tmp_path)
    for path in [tmp_path / f"{name}.json", tmp_path / f"{name}.bin"]:
        assert not path.exists() or path.read_bytes() == (FOLDER / path.name).read_bytes()


def test_golden_layouts_have_their_hashes() -> None:
    for case in read_cases("layout"):
        tensors = [LayoutTensor(**tensor | {"shape": tuple(tensor["shape"])}) for tensor in case["tensors"]]
        layout = Layout(tuple(tensors))
        assert layout.parameters == case["parameters"]
        assert layout.sha256() == case["sha256"]


def test_golden_deltas_lead_to_their_adapters() -> None:
    layouts = [
        Layout(
            tuple(LayoutTensor(**tensor | {"shape": tuple(tensor["shape"])}) for tensor in case["tensors"])
        )
        for case in read_cases("layout")
    ]
    for case in read_cases("delta"):
        layout, delta = layouts[case["layout"]], case["delta"].tobytes()
        after = version.decode_delta(delta, case["before"], layout)
        assert after.tobytes() == case["after"].tobytes()
        again = version.encode_delta(case["before"], case["after"], layout)
        assert again == delta
        assert kernels.encode_delta(case["before"], case["after"], layout) == delta
        assert kernels.decode_delta(delta, case["before"], layout).tobytes() == case["after"].tobytes()


def test_golden_pieces_lead_where_their_delta_does(tmp_path: Path) -> None:
    make_pieces.main([str(tmp_path)])
    for name in ("pieces.json", "pieces.bin"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
    layout = make_pieces.golden_layout()
    for case in read_cases("pieces"):
        before, after = case["before"], case["after"]
        assert version.decode_delta(case["delta"].tobytes(), before, layout).tobytes() == after.tobytes()
        arriving = before.copy()
        for piece in case["pieces"]:
            steps, whole, k = piece["steps"].tobytes(), piece["whole"].tobytes(), piece["segment"]
            assert kernels.encode_piece(before, after, layout, k) == steps
            arriving[layout.segment_slice(k)] = kernels.decode_piece(steps, before, layout, k)
            assert np.array_equal(
                kernels.decode_piece(whole, None, layout, k), after[layout.segment_slice(k)]
            )
        assert arriving.tobytes() == after.tobytes()


def test_golden_roundings_keep_no_negative_zero() -> None:
    for case in read_cases("grid"):
        if "rounded" in case:
            assert not np.any(np.signbit(case["rounded"]) & (case["rounded"] == 0))
            grid.check_grid(case["rounded"], case["exponent"])
