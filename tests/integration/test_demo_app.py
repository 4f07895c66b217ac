"""The demo app under Robolectric, in a real job of a real service: what its screens show comes from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from device_runtime.examples import read_examples
from tests.integration.conftest import TinyTask
from tests.integration.demo_app import Session, figures, minilm, run

SCREENS = 18
LARGEST_BYTES = 60_000


@pytest.mark.ci
def test_the_app_takes_part_with_a_tiny_program(tiny_task: TinyTask, tmp_path: Path) -> None:
    notes = read_examples(tiny_task.pool)[:24]
    settings: dict[str, Any] = {
        "rounds": 3,
        "cohort_size": 1,
        "model": str(tiny_task.model),
        "batch_examples": 8,
    }
    session = Session(tiny_task.bundle, tiny_task.public, notes, [], settings)
    found = figures(run(session, tmp_path))
    assert found["notes"] == len(notes)
    assert found["messages"] >= settings["rounds"]
    assert found["numbers"] > 0
    assert found["size_bytes"] > 0


@pytest.mark.long
def test_the_sorter_gets_better_at_the_users_notes_and_the_screens_show_it(tmp_path: Path) -> None:
    found = figures(run(minilm(), tmp_path, tmp_path / "screens"))
    assert found["numbers"] == 64 * 24
    assert found["now"] > found["first"]
    drawn = sorted((tmp_path / "screens").glob("*.png"))
    assert len(drawn) == SCREENS
    assert max(picture.stat().st_size for picture in drawn) < LARGEST_BYTES
