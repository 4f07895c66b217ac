"""Versions in pieces: coded once, sent before the guide's of each segment, gone when nobody needs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray

from cloud_service import guide_stream
from cloud_service.artifacts import Artifacts
from cloud_service.shelf import Piece, Shelf
from cloud_service.store import Store, versions
from cloud_service.version_pieces import NOTHING, VersionPieces, prune_pieces, streamable
from cloud_service.wire import WireError
from device_runtime.core.kernels import decode_delta, decode_piece
from device_runtime.zo.grid import round_to_grid
from protos import federation_pb2 as pb
from tests.cloud_service.test_guides_on_their_way import GUIDES, LAYOUT, VALUES, plan_at

LEVEL = 4


def adapter(number: int) -> NDArray[np.float32]:
    values = np.random.default_rng(number).uniform(-0.5, 0.5, LAYOUT.parameters).astype(np.float32)
    for tensor in LAYOUT.tensors:
        values[tensor.span] = round_to_grid(values[tensor.span], tensor.exponent)
    return values


ADAPTERS = {1: adapter(1), 2: adapter(2)}
ADAPTERS[2][LAYOUT.segment_slice(1)] = ADAPTERS[1][LAYOUT.segment_slice(1)]  # one segment did not move


class Cloud(NamedTuple):
    store: Store
    artifacts: Artifacts
    shelf: Shelf
    pieces: VersionPieces

    def announce(self, start: int) -> tuple[pb.Guide, dict[int, Piece]]:
        with self.store.transaction() as connection:
            guide = self.pieces.announce(connection, start, 2, ADAPTERS.__getitem__, LAYOUT.segments)
            assert guide is not None
            return guide, self.pieces.named(connection, guide.sha256, 2)

    def stream(self, version: dict[int, Piece], *start: int) -> Iterator[pb.GuideChunk | None]:
        segment, guide, byte = start or (0, 0, 0)
        request = pb.StreamGuidesRequest(first_segment=segment, first_guide=guide, first_byte=byte)
        return guide_stream.chunks(self.shelf, *plan_at(LEVEL), request, version)


def opened(folder: Path) -> Cloud:
    store, artifacts = Store(f"sqlite:///{folder / 'a.db'}"), Artifacts(folder / "artifacts")
    return Cloud(store, artifacts, Shelf(store, artifacts, LAYOUT), VersionPieces(artifacts, LAYOUT))


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    found = opened(tmp_path)
    found.shelf.announce(0, GUIDES)
    return found


@pytest.mark.parametrize("start", [NOTHING, 1])
def test_pieces_lead_to_the_version_and_outlive_the_process(cloud: Cloud, tmp_path: Path, start: int) -> None:
    guide, pieces = cloud.announce(start)
    moved = [segment for segment in LAYOUT.segments if start == NOTHING or segment != 1]
    assert list(guide.segments) == sorted(pieces) == moved
    before = ADAPTERS.get(start)
    for segment, piece in pieces.items():
        after = decode_piece(cloud.artifacts.get(piece.sha256), before, LAYOUT, segment)
        assert np.array_equal(after, ADAPTERS[2][LAYOUT.segment_slice(segment)])
    assert opened(tmp_path).announce(start) == (guide, pieces)


def test_the_name_says_where_the_pieces_start(cloud: Cloud) -> None:
    zeros = np.zeros(LAYOUT.parameters, np.float32)
    rows = [
        cloud.pieces.coded(start, 2, before, ADAPTERS[2])
        for start, before in ((NOTHING, None), (0, zeros), (1, zeros))
    ]
    assert len({row["name"] for found in rows for row in found}) == 3
    assert len({row["sha256"] for found in rows for row in found}) == len(LAYOUT.segments)


def test_what_moved_elsewhere_is_not_announced(cloud: Cloud) -> None:
    with cloud.store.transaction() as connection:
        announced = cloud.pieces.announce(connection, 1, 2, ADAPTERS.__getitem__, (0, 1))
        assert announced is None
        assert cloud.pieces.announce(connection, 1, 2, ADAPTERS.__getitem__, (0, 2)) is not None
        assert cloud.pieces.announce(connection, 1, 2, ADAPTERS.__getitem__, (0, 1)) is None


def test_a_delta_over_several_versions_is_coded_once_and_goes(cloud: Cloud) -> None:
    asked: list[int] = []

    def rebuild(number: int) -> NDArray[np.float32]:
        asked.append(number)
        return ADAPTERS[number]

    with cloud.store.transaction() as connection:
        sha256, size_bytes = cloud.pieces.in_one(connection, 1, 2, rebuild)
        assert cloud.pieces.in_one(connection, 1, 2, rebuild) == (sha256, size_bytes)
        assert asked == [1, 2]
        after = decode_delta(cloud.artifacts.get(sha256), ADAPTERS[1], LAYOUT)
        assert np.array_equal(after, ADAPTERS[2])
        assert cloud.pieces.announce(connection, 1, 2, rebuild, LAYOUT.segments) is not None
        prune_pieces(connection, cloud.artifacts, 4)
    assert not cloud.artifacts.path(sha256).exists()


def test_a_segments_version_comes_before_its_guide_and_need_not_wait(cloud: Cloud) -> None:
    _, version = cloud.announce(1)
    stream, got = cloud.stream(version), []
    for segment in LAYOUT.segments:
        while (chunk := next(stream)) is not None:
            got.append((chunk.segment, chunk.guide))
        cloud.shelf.put(0, segment, VALUES[LAYOUT.segment_slice(segment)], 0)
        if segment + 1 in LAYOUT.segments:
            assert (segment + 1, 1) not in got
    got += [(chunk.segment, chunk.guide) for chunk in stream if chunk is not None]
    wanted = sorted([(segment, 1) for segment in LAYOUT.segments] + [(segment, 0) for segment in version])
    assert sorted(set(got)) == got == wanted


def test_a_broken_stream_goes_on_at_any_byte(cloud: Cloud) -> None:
    _, version = cloud.announce(1)
    for segment in LAYOUT.segments:
        cloud.shelf.put(0, segment, VALUES[LAYOUT.segment_slice(segment)], 0)
    whole = [chunk for chunk in cloud.stream(version) if chunk is not None]
    assert [chunk.last for chunk in whole] == [False] * (len(whole) - 1) + [True]
    for number, chunk in enumerate(whole):
        middle = len(chunk.data) // 2
        rest = list(cloud.stream(version, chunk.segment, chunk.guide, middle))
        assert rest[0] is not None
        assert rest[0].data == chunk.data[middle:]
        assert [(c.segment, c.guide) for c in rest if c] == [(c.segment, c.guide) for c in whole[number:]]
    for start in [(0, 2, 0), (1, 0, 5), (0, 0, 1 << 20), (LAYOUT.segments[-1] + 1, 0, 0)]:
        with pytest.raises(WireError):
            next(cloud.stream(version, *start))


def test_pieces_to_earlier_versions_go(cloud: Cloud) -> None:
    guide, pieces = cloud.announce(1)
    with cloud.store.transaction() as connection:
        prune_pieces(connection, cloud.artifacts, 3)
        assert cloud.pieces.named(connection, guide.sha256, 2) == pieces
        assert cloud.pieces.named(connection, guide.sha256, 3) == {}
        prune_pieces(connection, cloud.artifacts, 4)
        assert cloud.pieces.named(connection, guide.sha256, 2) == {}
    assert not any(cloud.artifacts.path(piece.sha256).exists() for piece in pieces.values())


def test_a_versions_own_delta_stays_where_one_over_several_has_its_bytes(cloud: Cloud) -> None:
    with cloud.store.transaction() as connection:
        sha256, size_bytes = cloud.pieces.in_one(connection, 1, 2, ADAPTERS.__getitem__)
        own = {"number": 1, "adapter_sha256": "", "state_sha256": "", "delta_sha256": sha256}
        connection.execute(sa.insert(versions).values(**own, delta_size_bytes=size_bytes))
        prune_pieces(connection, cloud.artifacts, 9)
    assert cloud.artifacts.path(sha256).exists()


def test_only_tasks_that_run_segment_by_segment_get_versions_so() -> None:
    plan, _ = plan_at(LEVEL)
    assert streamable(plan, "a") == set(LAYOUT.segments)
    assert not streamable(plan, "b")
    assert not streamable(plan_at(LEVEL, in_turn=True)[0], "a")
