"""What the integration tests share: one tiny bundle a session, exported for real, and data for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration import tiny


@dataclass(frozen=True)
class TinyTask:
    """A model folder, its bundle, and data files."""

    model: Path
    bundle: Path
    pool: Path
    public: Path
    evaluation: Path


@pytest.fixture(scope="session")
def tiny_task(tmp_path_factory: pytest.TempPathFactory) -> TinyTask:
    folder = tmp_path_factory.mktemp("tiny")
    model = tiny.write_model(folder / "model")
    return TinyTask(
        model=model,
        bundle=tiny.write_bundle(model, folder / "bundle"),
        pool=tiny.write_table(folder / "pool.tsv", 240, seed=1),
        public=tiny.write_table(folder / "public.tsv", 32, seed=2),
        evaluation=tiny.write_table(folder / "eval.tsv", 40, seed=3),
    )
