"""What the integration tests share: the session's tiny bundle, and data for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from device_runtime.bundle import Bundle
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
