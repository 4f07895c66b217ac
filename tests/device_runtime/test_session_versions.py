"""How a session reaches adapter versions, and what it does when an update, a guide or a bundle is no good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_runtime.budget import Budget
from device_runtime.core import kernels
from device_runtime.errors import BundleError, BundleVersionError
from device_runtime.session import Outcome
from device_runtime.versions import adapter_sha256
from device_runtime.zo.direction import Direction, Guide
from device_runtime.zo.spsa import Update, apply_update
from device_runtime.zo.version import encode_delta
from protos import federation_pb2 as pb

from .fake_cloud import guide_chunks
from .toy_bundle import HEAD, toy_adapter, write_toy_bundle
from .world import Float32, World, directions, finished, retry


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def step_from(world: World, adapter: Float32) -> tuple[pb.Record, Float32]:
    """A record, and where the NumPy twin says that it leads."""
    record = pb.Record(
        epsilon=0.01, update_seed=77, active_segments=[1, HEAD], coefficients=[0.0031, -0.0017],
        directions=[pb.Direction(seed=40, count=2, isotropic_scale=1.0)],
    )  # fmt: skip
    twins = (Direction(40, active_segments=(1, HEAD)), Direction(41, active_segments=(1, HEAD)))
    after = adapter.copy()
    apply_update(
        after, world.bundle.layout, Update(0.01, 77, twins, (0.0031, -0.0017), active_segments=(1, HEAD))
    )
    return record, after


def update_by(world: World, form: str, version: int, before: Float32) -> tuple[pb.VersionUpdate, Float32]:
    record, after = step_from(world, before)
    if form == "snapshot":
        return world.snapshot(after, version), after
    update = pb.VersionUpdate(version=version, from_version=version - 1, adapter_sha256=adapter_sha256(after))
    if form == "records":
        update.records.record.append(record)
    else:
        update.delta.CopyFrom(world.cloud.serve(encode_delta(before, after, world.bundle.layout)))
    return update, after


def test_versions_by_record_delta_and_snapshot_and_mixtures(world: World) -> None:
    world.turn(world.task())
    adapter = world.adapter
    for version, form in enumerate(["records", "delta", "records", "snapshot", "delta", "records"], start=2):
        update, adapter = update_by(world, form, version, adapter)
        world.told()
        world.turn(world.task(version, update))
        assert f"version {version} {form}" in world.told()
        assert world.status == "OK"
        assert np.array_equal(world.engine.adapter.view(np.int32), adapter.view(np.int32))
        if version % 2:
            world.start()  # what is on disk must be as good as what was in memory


def test_several_records_in_one_update(world: World) -> None:
    world.turn(world.task())
    first, between = step_from(world, world.adapter)
    second, after = step_from(world, between)
    update = pb.VersionUpdate(version=3, from_version=1, adapter_sha256=adapter_sha256(after))
    update.records.record.extend([first, second])
    world.turn(finished(update))
    assert np.array_equal(world.engine.adapter, after)


def encoded(world: World, name: bytes, values: Float32) -> pb.EncodedGuide:
    """A guide over the two segments that move, in whatever few bits it takes."""
    pieces = {k: values[world.bundle.layout.segment_slice(k)] for k in (1, HEAD)}
    return pb.EncodedGuide(
        sha256=name,
        segments=[
            pb.EncodedSegment(
                segment=k, encoding=pb.GUIDE_ENCODING_CODED, data=kernels.encode_guide(piece, 0.5)
            )
            for k, piece in pieces.items()
        ],
    )


def test_a_record_brings_the_guides_that_a_device_lacks(world: World) -> None:
    world.turn(world.task())
    layout = world.bundle.layout
    values = np.random.default_rng(8).normal(size=layout.parameters).astype(np.float32)
    guide, received = encoded(world, b"g" * 32, values), np.zeros_like(values)
    for item in guide.segments:
        span = layout.segment_slice(item.segment)
        received[span] = kernels.decode_guide(item.data, span.stop - span.start)
    record = pb.Record(
        epsilon=0.01, update_seed=5, active_segments=[1, HEAD],
        guides=[pb.GuideTerm(guide_sha256=b"g" * 32, coefficient=-0.02)],
    )  # fmt: skip
    after = world.adapter.copy()
    apply_update(after, layout, Update(0.01, 5, (), (), (Guide(received, -0.02),), (1, HEAD)))
    update = pb.VersionUpdate(version=2, from_version=1, adapter_sha256=adapter_sha256(after))
    update.records.record.append(record)
    update.records.guides.append(guide)
    world.turn(finished(update))
    assert np.array_equal(world.engine.adapter, after)
    assert not np.array_equal(after, world.adapter)


def bad_update(world: World, kind: str) -> pb.VersionUpdate:
    update, _ = update_by(world, "records", 2, world.adapter)
    record = update.records.record[0]
    match kind:
        case "leads elsewhere":
            record.update_seed += 1
        case "starts elsewhere":
            update.from_version = 5
        case "unknown guide":
            record.guides.add(guide_sha256=b"x" * 32, coefficient=1.0)
        case "not finite":
            record.coefficients[0] = float("nan")
        case "too few coefficients":
            del record.coefficients[1]
        case "huge":
            record.directions[0].count = 2**32 - 1
        case "damaged delta":
            update.delta.CopyFrom(world.cloud.serve(b"CLMDELTA and nonsense"))
        case "delta that is not there":
            update.delta.CopyFrom(pb.Artifact(sha256=b"z" * 32, size_bytes=10))
        case "no form":
            update.ClearField("form")
        case "unchanged":
            update.unchanged.SetInParent()
    return update


@pytest.mark.parametrize(
    "kind",
    [
        "leads elsewhere", "starts elsewhere", "unknown guide", "not finite", "too few coefficients", "huge",
        "damaged delta", "delta that is not there", "no form", "unchanged",
    ],
)  # fmt: skip
def test_an_update_that_fails_is_answered_by_asking_for_a_snapshot(world: World, kind: str) -> None:
    world.turn(world.task())
    world.told()
    assert world.turn(world.task(2, bad_update(world, kind))) == Outcome()
    assert world.told() == ["check_in", "task", "fetch", "version"]
    assert np.array_equal(world.engine.adapter, world.adapter)
    _, after = step_from(world, world.adapter)
    world.turn(world.task(2, world.snapshot(after, 2)))
    assert world.cloud.check_ins[-1].adapter_sha256 == b""
    assert [report.status for report in world.cloud.reports] == [pb.REPORT_STATUS_OK] * 2
    assert np.array_equal(world.engine.adapter, after)


@pytest.mark.parametrize(("name", "value"), [("data", b"nonsense"), ("segment", 77), ("encoding", 3)])
def test_a_record_with_a_bad_guide_is_answered_the_same(world: World, name: str, value: object) -> None:
    world.turn(world.task())
    update, _ = update_by(world, "records", 2, world.adapter)
    update.records.record[0].guides.add(guide_sha256=b"x" * 32, coefficient=1.0)
    update.records.guides.append(encoded(world, b"x" * 32, world.adapter))
    setattr(update.records.guides[0].segments[0], name, value)
    assert world.turn(world.task(2, update)) == Outcome()
    assert world.store.state.adapter_sha256 == ""
    assert np.array_equal(world.engine.adapter, world.adapter)


def test_a_snapshot_that_fails_is_reported_and_the_session_goes_on(world: World) -> None:
    wrong = world.snapshot(toy_adapter(world.bundle.layout, seed=4), 1)
    wrong.adapter_sha256 = b"\x01" * 32
    world.turn(world.task(1, wrong))
    assert world.status == "BAD_ARTIFACT"
    off_grid = world.adapter.copy()
    off_grid[0] = 1e-9
    world.turn(world.task(2, world.snapshot(off_grid, 1)))
    assert world.status == "BAD_ARTIFACT"
    world.turn(world.task(3))
    assert world.status == "OK"


def test_a_damaged_adapter_on_disk_is_not_claimed(world: World) -> None:
    world.turn(world.task())
    (path,) = (world.folder / "store" / "adapters").iterdir()
    world.start()
    path.write_bytes(path.read_bytes()[:-4])
    world.turn(retry())
    assert world.cloud.check_ins[-1].adapter_sha256 == b""
    assert world.cloud.check_ins[-1].bundle_sha256 == world.bundle_sha256


# --- guides and scale


def guided_task(world: World, number: int = 1) -> tuple[pb.CheckInReply, Float32]:
    """A task with one guide over segment 1 and the head, and the guide over the whole adapter."""
    layout = world.bundle.layout
    values = np.random.default_rng(number).normal(size=layout.parameters).astype(np.float32)
    values[layout.segment_slice(0)] = 0
    guide, chunks = guide_chunks({s: values[layout.segment_slice(s)].tobytes() for s in (1, HEAD)})
    wanted = directions()
    wanted.guides.append(guide)
    wanted.steps[0].directions[0].guides.add(guide_sha256=guide.sha256, coefficient=0.5)
    world.cloud.chunks[f"task-{number}"] = chunks
    return world.task(number, directions=wanted), values


def test_a_guide_is_streamed_once_kept_and_used_by_the_record_of_its_round(world: World) -> None:
    reply, values = guided_task(world)
    world.turn(reply)
    assert world.status == "OK"
    assert "guides" in world.told()
    plain = World(world.folder / "plain")
    plain.turn(plain.task())
    assert list(plain.cloud.reports[0].scalars) != list(world.cloud.reports[0].scalars)
    world.start()
    guide = reply.task.directions.guides[0]
    record, _ = step_from(world, world.adapter)
    record.guides.add(guide_sha256=guide.sha256, coefficient=-0.25)
    record.directions[0].guides.add(guide_sha256=guide.sha256, coefficient=0.5)
    after = world.adapter.copy()
    twins = tuple(Direction(seed, 1.0, None, (Guide(values, 0.5),), (1, HEAD)) for seed in (40, 41))
    update = Update(0.01, 77, twins, (0.0031, -0.0017), (Guide(values, -0.25),), (1, HEAD))
    apply_update(after, world.bundle.layout, update)
    version = pb.VersionUpdate(version=2, from_version=1, adapter_sha256=adapter_sha256(after))
    version.records.record.append(record)
    world.turn(finished(version))
    assert np.array_equal(world.engine.adapter.view(np.int32), after.view(np.int32))
    assert world.cloud.streamed == ["task-1"]


@pytest.mark.parametrize("damage", ["flip", "missing", "swap", "not finite", "segment"])
def test_a_guide_that_arrives_altered_twice_is_reported(world: World, damage: str) -> None:
    reply, _ = guided_task(world)
    chunks = world.cloud.chunks["task-1"]
    match damage:
        case "flip":
            chunks[1].data = b"\x00" * len(chunks[1].data)
        case "missing":
            del chunks[-1]
        case "swap":
            chunks[0], chunks[1] = chunks[1], chunks[0]
        case "not finite":
            layout = world.bundle.layout
            spans = {segment: layout.segment_slice(segment) for segment in (1, HEAD)}
            slices = {k: np.full(span.stop - span.start, np.nan, np.float32) for k, span in spans.items()}
            guide, world.cloud.chunks["task-1"] = guide_chunks({s: v.tobytes() for s, v in slices.items()})
            reply.task.directions.guides[0].CopyFrom(guide)
            reply.task.directions.steps[0].directions[0].guides[0].guide_sha256 = guide.sha256
        case "segment":
            chunks[0].segment = 0
    world.turn(reply)
    assert world.status == "BAD_ARTIFACT"
    assert world.cloud.streamed == ["task-1"] * (1 if damage == "not finite" else 2)


def test_a_scale_is_fetched_once_and_changes_the_scalars(world: World) -> None:
    from safetensors.numpy import save

    scale = np.linspace(0.5, 2.0, world.bundle.layout.parameters, dtype=np.float32)
    artifact = world.cloud.serve(save({"scale": scale}))
    wanted = directions()
    wanted.scale_sha256, wanted.scale_size_bytes = artifact.sha256, artifact.size_bytes
    world.turn(world.task(1, directions=wanted))
    world.turn(world.task(2, world.unchanged(), directions=wanted))
    world.turn(world.task(3, world.unchanged()))
    scaled, again, plain = (list(report.scalars) for report in world.cloud.reports)
    assert scaled == again != plain
    assert world.cloud.fetched.count(artifact.sha256.hex()) == 1
    scale[3] = 0.0
    artifact = world.cloud.serve(save({"scale": scale}))
    wanted.scale_sha256 = artifact.sha256
    world.turn(world.task(4, world.unchanged(), directions=wanted))
    assert world.status == "BAD_ARTIFACT"


def test_a_scale_that_leaves_the_head_alone_is_refused_before_anything_runs(world: World) -> None:
    from safetensors.numpy import save

    world.budget = Budget(64, max_head_scalars_per_round=3)
    world.start()
    world.turn(world.task(1))
    assert world.status == "OK"
    scale = np.ones(world.bundle.layout.parameters, np.float32)
    scale[: world.bundle.layout.segment_slice(HEAD).start] = 1e-4
    artifact = world.cloud.serve(save({"scale": scale}))
    wanted = directions()
    wanted.scale_sha256, wanted.scale_size_bytes = artifact.sha256, artifact.size_bytes
    world.turn(world.task(2, world.unchanged(), directions=wanted))
    assert world.status == "REFUSED_DISCLOSURE_BUDGET"
    assert not world.cloud.reports[-1].scalars
    assert world.cloud.reports[-1].timing.segment_runs == 0
    wanted.steps[0].directions[0].count = 3
    world.turn(world.task(3, world.unchanged(), directions=wanted))
    assert world.status == "OK"
    assert world.store.state.disclosed["3"] == [3, 3]


# --- bundle


def test_a_damaged_bundle_file_is_fetched_again_and_the_others_are_not(world: World) -> None:
    world.turn(world.task())
    program = world.folder / "store" / "bundles" / world.bundle.sha256 / "program.pte"
    data = program.read_bytes()
    for damaged in (data[:-1], data[:100] + b"\x00" + data[101:], b""):
        program.write_bytes(damaged)
        world.start()
        world.cloud.fetched.clear()
        world.turn(world.task(2, world.unchanged()))
        assert world.status == "OK"
        assert world.cloud.fetched == [world.bundle.manifest.files["program"].sha256]


def test_a_bundle_of_an_unknown_version_is_told_to_the_cloud_and_to_the_user(world: World) -> None:
    folder = write_toy_bundle(world.folder / "newer", format_version=2)
    reply = world.task()
    reply.task.bundle_sha256 = world.cloud.serve_folder(folder)
    with pytest.raises(BundleVersionError, match="format version 2, this release reads 1"):
        world.turn(reply)
    assert world.status == "BAD_ARTIFACT"
    world.turn(world.task())
    assert world.status == "OK"


def test_a_bundle_that_the_cloud_itself_holds_damaged_is_an_error(world: World) -> None:
    folder = write_toy_bundle(world.folder / "other")
    (folder / "manifest.json").write_bytes(b'{"format_version": 1}')
    reply = world.task()
    reply.task.bundle_sha256 = world.cloud.serve_folder(folder)
    with pytest.raises(BundleError):
        world.turn(reply)
    assert world.status == "BAD_ARTIFACT"
