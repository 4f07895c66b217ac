"""What the integration tests share: the session's tiny bundle, and data for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.emulated import Emulator
from benchmarks.emulator_bundles import export_tiny
from device_runtime.bundle import Bundle
from tests.integration.jvm_device import JvmDevice
from tests.integration.tiny import write_table


@dataclass(frozen=True)
class TinyTask:
    """A model folder, its bundle, and data files."""

    model: Path
    bundle: Path
    classes: list[str]
    pool: Path
    public: Path
    evaluation: Path


@pytest.fixture(scope="session")
def tiny_task(tiny_source: Path, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> TinyTask:
    folder = tmp_path_factory.mktemp("tables")
    classes = tiny_bundle.class_names
    return TinyTask(
        model=tiny_source,
        bundle=tiny_bundle.folder,
        classes=classes,
        pool=write_table(folder / "pool.tsv", 240, classes, seed=1),
        public=write_table(folder / "public.tsv", 32, classes, seed=2),
        evaluation=write_table(folder / "eval.tsv", 40, classes, seed=3),
    )


@pytest.fixture(scope="session")
def emulator() -> Emulator:
    """The emulated arm64 machine."""
    folder = os.environ.get("COOPERLLM_EMULATOR")
    if folder is None:
        pytest.fail("there is no emulated machine: run these tests by scripts/emulator")
    return Emulator.at(Path(folder))


@pytest.fixture(scope="session")
def jvm() -> JvmDevice:
    """The Kotlin device on this machine."""
    return JvmDevice.built()


@pytest.fixture(scope="session")
def emulated_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle small enough for it; the model is beside it."""
    return export_tiny(tmp_path_factory.mktemp("emulated"))
