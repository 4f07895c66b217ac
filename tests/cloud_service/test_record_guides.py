"""Guides that travel with records: as they were sent to others, or none at all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cloud_service import record_guides
from cloud_service.artifacts import Artifacts
from cloud_service.record_guides import named_guides
from cloud_service.versions import Chain
from device_runtime.guides import decode
from protos import federation_pb2 as pb
from tests.cloud_service.test_guides_on_their_way import GUIDES, LAYOUT, VALUES, Place

LEVEL = 4


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A shelf with one round's guide, as it was sampled and at one level."""
    found = Place(tmp_path)
    found.shelf.announce(0, GUIDES)
    found.put(*LAYOUT.segments)
    for segment in LAYOUT.segments:
        found.shelf.piece(0, LEVEL, segment)
    return found


def name_at(level: int) -> str:
    guide = GUIDES.at(level)
    assert guide is not None
    return guide.name.hex()


def sent(place: Place, *names: str) -> list[pb.EncodedGuide] | None:
    with place.store.transaction() as connection:
        return named_guides(connection, place.artifacts, set(names), range(3))


@pytest.mark.parametrize("level", [0, LEVEL])
def test_a_guide_is_what_others_received(place: Place, level: int) -> None:
    (guide,) = sent(place, name_at(level)) or []
    assert guide.sha256.hex() == name_at(level)
    values = np.zeros(LAYOUT.parameters, np.float32)
    for item in guide.segments:
        span = LAYOUT.segment_slice(item.segment)
        values[span] = decode(item.encoding, item.data, span.stop - span.start)
    assert np.array_equal(values, place.shelf.received(0, [level])[guide.sha256])
    assert level or np.array_equal(values, VALUES)


def test_all_that_are_named_or_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    both = name_at(0), name_at(LEVEL)
    assert sent(place) == []
    assert len(sent(place, *both) or []) == 2
    assert sent(place, *both, name_at(LEVEL + 1)) is None  # nobody was sent it
    assert sent(place, "ab" * 32) is None
    size_bytes = sum(len(item.data) for guide in sent(place, *both) or [] for item in guide.segments)
    monkeypatch.setattr(record_guides, "MOST_BYTES", size_bytes - 1)
    assert sent(place, *both) is None
    assert sent(place, name_at(LEVEL)) is not None


def test_a_guide_whose_file_has_gone_is_not_sent(place: Place) -> None:
    (guide,) = sent(place, name_at(LEVEL)) or []
    for path in place.artifacts.folder.iterdir():
        if path.read_bytes() == guide.segments[1].data:
            path.unlink()
    assert sent(place, name_at(LEVEL)) is None


def test_a_delta_over_several_versions_is_less_than_theirs_together(tmp_path: Path) -> None:
    chain = Chain(Artifacts(tmp_path), LAYOUT, "auto")

    def about_bytes(*sizes: int) -> int:
        rows: list[Any] = [SimpleNamespace(delta_size_bytes=size) for size in sizes]
        return chain._delta_bytes(rows)

    assert about_bytes() == 0
    assert about_bytes(700) == 700
    assert about_bytes(700, 700) == 700 + -(-LAYOUT.parameters // 8)
    assert about_bytes(700, 3) == 703  # never more than both
    assert about_bytes(*[700] * 16) == 700 + LAYOUT.parameters * 4 // 8
