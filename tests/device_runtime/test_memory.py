"""A limit on memory: what fits below it, what is left, and what an app is told when nothing fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_runtime import memory
from device_runtime.engine import Engine
from device_runtime.errors import BundleTooLarge
from device_runtime.limits import Limits
from device_runtime.streaming import MOST_BYTES

from .test_device import device_with_bundle
from .toy_bundle import open_toy_bundle
from .world import World


def test_the_items_add_up_and_the_planned_arenas_are_the_programs(tmp_path: Path) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    planned_bytes = Engine(bundle)._core.planned_bytes
    assert 0 < planned_bytes < 10**6
    needed = memory.needed_bytes(bundle, planned_bytes)
    assert needed == {
        "weights": (tmp_path / "bundle" / "program.pte").stat().st_size,
        "activations": planned_bytes,
        "adapter": 8 * bundle.layout.parameters,
        "hidden states": 2 * 4 * 4 * 16 * 16,
    }
    total = sum(needed.values())
    assert memory.left_bytes(bundle, planned_bytes, total + 7) == 7
    with pytest.raises(BundleTooLarge, match=f"max_memory_bytes is {total - 1}: allow {total}, or have"):
        memory.left_bytes(bundle, planned_bytes, total - 1)


def test_what_is_left_bounds_the_states_that_are_kept_and_streaming_order(tmp_path: Path) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    total = sum(memory.needed_bytes(bundle, Engine(bundle)._core.planned_bytes).values())
    half = Engine(bundle, max_memory_bytes=total + 100)
    assert (half._max_state_bytes, half.streaming_bytes) == (50, 50)
    less = Engine(bundle, max_state_bytes=30, max_memory_bytes=total + 100)
    assert (less._max_state_bytes, less.streaming_bytes) == (30, 70)
    assert Engine(bundle).streaming_bytes == MOST_BYTES


def test_a_bundle_that_does_not_fit_is_told_here_and_to_the_cloud(tmp_path: Path) -> None:
    world = World(tmp_path, make_engine=lambda bundle: Engine(bundle, max_memory_bytes=1000))
    with pytest.raises(BundleTooLarge, match="max_memory_bytes is 1000: allow"):
        world.turn(world.task())
    assert world.status == "BAD_ARTIFACT"
    assert world.cloud.reports[0].detail.startswith("this bundle takes")
    assert world.told() == ["enroll", "check_in", "task", "fetch", "report", "report BAD_ARTIFACT"]


def test_a_device_keeps_to_its_limit(tmp_path: Path) -> None:
    from device_runtime.device import Device

    device_with_bundle(tmp_path).close()
    small = Device(server=None, store=tmp_path / "store", examples=[], limits=Limits(max_memory_bytes=1000))
    with small, pytest.raises(BundleTooLarge):
        small.predict(["w1"])
