"""Versions in pieces: coded once, sent before the guide's of each segment, gone when nobody needs them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray

from cloud_service import guide_stream
from cloud_service.artifacts import Artifacts
from cloud_service.plan import RoundState
from cloud_service.shelf import Piece, Shelf
from cloud_service.store import Store, latest_version, versions
from cloud_service.version_pieces import NOTHING, VersionPieces, prune_pieces, streamable
from cloud_service.versions import Chain, version_row
from cloud_service.wire import WireError
from device_runtime.core.kernels import decode_piece
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
            guide = self.pieces.announce(connection, start, 2, ADAPTERS.__getitem__)
            return guide, self.pieces.pieces(connection, start, 2)

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
    assert cloud.announce(NOTHING)[0].sha256 != cloud.announce(1)[0].sha256


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
    _, pieces = cloud.announce(1)
    with cloud.store.transaction() as connection:
        prune_pieces(connection, cloud.artifacts, 3)  # whose round came too early for somebody
        assert cloud.pieces.pieces(connection, 1, 2) == pieces
        prune_pieces(connection, cloud.artifacts, 4)
        assert cloud.pieces.pieces(connection, 1, 2) == {}
    assert not any(cloud.artifacts.path(piece.sha256).exists() for piece in pieces.values())


def test_only_tasks_that_run_segment_by_segment_get_versions_so() -> None:
    plan, _ = plan_at(LEVEL)
    assert streamable(plan, "a") == set(LAYOUT.segments)
    assert not streamable(plan, "b")
    assert not streamable(plan_at(LEVEL, in_turn=True)[0], "a")


def test_the_stream_brings_what_was_announced_whoever_had_a_snapshot_since(cloud: Cloud) -> None:
    rows: list[dict[str, Any]] = []
    states = {number: RoundState(number, values) for number, values in ADAPTERS.items()}
    for number, state in states.items():
        rows.append(version_row(cloud.artifacts, LAYOUT, states.get(number - 1), state, None, number == 1))
    rows[1]["delta_size_bytes"] = 4 * LAYOUT.parameters + 1  # less than a snapshot with its header
    chain = Chain(cloud.artifacts, LAYOUT, "auto")
    facts = {"client_id": "0" * 64, "adapter_version": 1, "adapter_sha256": rows[0]["adapter_sha256"]}
    client: Any = SimpleNamespace(**facts)
    newcomer: Any = SimpleNamespace(**facts | {"adapter_version": 0, "adapter_sha256": ""})
    with cloud.store.transaction() as connection:
        for row in rows:
            connection.execute(sa.insert(versions).values(**row))
        update = chain.update(connection, client, latest_version(connection), LAYOUT.segments)
        assert chain.update(connection, newcomer, latest_version(connection)).WhichOneof("form") == "snapshot"
        pieces = chain.in_stream(connection, client, latest_version(connection), LAYOUT.segments)
    assert sorted(pieces) == list(update.streamed.segments)
    names = hashlib.sha256("".join(piece.sha256 for piece in pieces.values()).encode())
    assert names.digest() == update.streamed.sha256
