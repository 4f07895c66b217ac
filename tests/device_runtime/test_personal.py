"""Personalising helps the device's own examples, stays on the device and touches nothing that is shared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_runtime.device import Device
from device_runtime.engine import Engine
from device_runtime.errors import NotEnoughExamples, OptionError
from device_runtime.examples import Example
from device_runtime.learned import Prediction
from device_runtime.limits import Limits
from device_runtime.personal import Personal, Practice, applied, personalise
from device_runtime.store import Store
from device_runtime.versions import adapter_sha256

from .test_device import device_with_bundle
from .toy_bundle import HEAD, open_toy_bundle, toy_adapter, toy_examples
from .world import World, directions

QUICK = Practice(steps=24, directions=8)


def offline(folder: Path, examples: list[Example], limits: Limits | None = None) -> Device:
    """The device that took part in a folder, without its cloud."""
    return Device(server=None, store=folder / "store", examples=examples, limits=limits)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a device that holds the toy bundle and version 4."""
    device_with_bundle(tmp_path).close()
    return tmp_path


def test_personalising_helps_its_own_examples_and_leaves_the_shared_adapter(folder: Path) -> None:
    examples = toy_examples(100)
    with offline(folder, examples) as device:
        shared = device.evaluate(examples)
        sha256 = device._store.state.adapter_sha256
        before = (folder / "store" / "state").read_bytes()
        found = device.personalise(QUICK)
        assert found.kept
        assert found.loss_after < 0.9 * found.loss_before
        assert found.held_out_loss_after is not None
        assert found.held_out_loss_before is not None
        assert found.held_out_loss_after <= found.held_out_loss_before
        assert device.evaluate(examples, private=True).loss < shared.loss
        assert device.evaluate(examples) == shared
        assert adapter_sha256(device._engine().adapter).hex() == sha256
        assert (folder / "store" / "state").read_bytes() == before
    with offline(folder, examples) as device:  # it lasts, and goes on where it ended
        assert device.evaluate(examples) == shared
        again = device.personalise(QUICK)
        assert again.loss_before == pytest.approx(found.loss_after)
        differing = [device.predict([e.text], private=p) for e in examples[:20] for p in (False, True)]
        assert {type(p) for ps in differing for p in ps} == {Prediction}
        assert differing[::2] != differing[1::2]
        device.forget_personal()
        with pytest.raises(OptionError, match="nothing was personalised"):
            device.predict(["w1"], private=True)
        device.personalise(QUICK)
        device.forget()
    assert not (folder / "store" / "personal").exists()


def test_only_the_segments_that_practice_names_differ(tmp_path: Path) -> None:
    engine = Engine(open_toy_bundle(tmp_path / "bundle"))
    private = engine.private_examples(lambda names: toy_examples(60))
    head = engine.bundle.layout.segment_slice(HEAD)
    alone, _ = personalise(engine, private, None, QUICK)
    assert np.any(alone.difference[head] != 0)
    assert not np.any(alone.difference[: head.start])
    both, _ = personalise(engine, private, alone, Practice(steps=8, directions=4, segments="all"))
    assert np.any(both.difference[: head.start] != 0)
    assert (alone.steps, both.steps) == (24, 32)


def test_a_new_version_brings_what_others_taught_under_the_same_difference(tmp_path: Path) -> None:
    bundle = open_toy_bundle(tmp_path / "bundle")
    engine = Engine(bundle)
    private = engine.private_examples(lambda names: toy_examples(60))
    personal, _ = personalise(engine, private, None, QUICK)
    assert personal.shared_sha256 == adapter_sha256(engine.adapter).hex()
    newer = toy_adapter(bundle.layout, seed=77)
    engine.adapter[:] = newer
    with applied(engine, personal):
        assert np.array_equal(engine.adapter - newer, personal.difference)  # exact on the grid
    assert np.array_equal(engine.adapter.view(np.int32), newer.view(np.int32))


def test_at_the_bound_a_value_stops_and_zero_stays_positive(tmp_path: Path) -> None:
    layout = open_toy_bundle(tmp_path / "bundle").layout
    shared = np.zeros(layout.parameters, np.float32)
    difference = np.zeros_like(shared)
    most = np.float32((2**23 - 1) * 2.0**-20)
    shared[:4], difference[:4] = (most, -most, 0.5, -0.0), (most, -most, -0.5, -0.0)
    private = Personal("", "", 0, difference).over(shared, layout)
    assert list(private[:4]) == [most, -most, 0.0, 0.0]
    assert not np.any(np.signbit(private[2:]))


def test_what_is_kept_reads_back_for_its_bundle_alone_and_never_half(tmp_path: Path) -> None:
    personal = Personal("b" * 64, "a" * 64, 7, np.arange(5, dtype=np.float32))
    with Store(tmp_path) as store:
        store.write_personal(personal.to_bytes())
        kept = store.read_personal()
        found = Personal.from_bytes(kept, "b" * 64)
        assert found == personal
        assert found is not None
        assert np.array_equal(found.difference, personal.difference)
        assert Personal.from_bytes(kept, "c" * 64) is None
        whole = (tmp_path / "personal").read_bytes()
        for size in range(len(whole)):
            (tmp_path / "personal").write_bytes(whole[:size])
            assert store.read_personal() is None


def test_worse_on_the_held_out_examples_is_not_kept(folder: Path) -> None:
    """Training examples whose labels are turned round, held-out ones whose are not."""
    from device_runtime.examples import split_held_out

    train, held_out = split_held_out(toy_examples(200))
    with offline(folder, []) as device:
        labels = [prediction.label for prediction in device.predict([e.text for e in held_out])]
    turned = {"left": "right", "right": "up", "up": "left"}
    honest = [Example(e.text, label) for e, label in zip(held_out, labels, strict=True)]
    with offline(folder, []) as device:
        said = [prediction.label for prediction in device.predict([e.text for e in train])]
    wrong = [Example(e.text, turned[label]) for e, label in zip(train, said, strict=True)]
    with offline(folder, [*honest, *wrong]) as device:
        found = device.personalise(QUICK)
        assert found.loss_after < found.loss_before
        assert not found.kept
        assert not (folder / "store" / "personal").exists()


def test_reports_and_versions_know_nothing_of_it(tmp_path: Path) -> None:
    plain, personal = World(tmp_path / "plain"), World(tmp_path / "personal")
    for world in (plain, personal):
        world.turn(world.task())
    private = personal.engine.private_examples(lambda names: personal.examples)
    personal.store.write_personal(personalise(personal.engine, private, None, QUICK)[0].to_bytes())
    for world in (plain, personal):
        world.turn(world.task(2, world.unchanged(), directions=directions(batch_seed=6)))
    assert personal.told() == plain.told()
    for left, right in zip(plain.cloud.reports, personal.cloud.reports, strict=True):
        left.ClearField("timing"), right.ClearField("timing")
        assert left == right
    assert plain.cloud.check_ins == personal.cloud.check_ins


def test_what_makes_no_sense_is_refused(folder: Path, tmp_path: Path) -> None:
    with offline(folder, toy_examples(5)) as device:
        with pytest.raises(NotEnoughExamples, match="fewer than 8"):
            device.personalise()
        with pytest.raises(OptionError, match="no server"):
            device.run_once()
    for wrong in ({"steps": 0}, {"learning_rate": 0.0}, {"epsilon": float("inf")}, {"segments": "tail"}):
        with pytest.raises(OptionError):
            Practice(**wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="segments all"):
        Practice(segments="head").active({0: 4, 1: 0})
    assert Practice().active({0: 4, 1: 0}) == [0]


def test_it_ends_early_when_the_sessions_time_is_up(folder: Path) -> None:
    with offline(folder, toy_examples(60), Limits(max_duration_s=1e-9)) as device:
        found = device.personalise()
        assert (found.steps, found.kept) == (0, False)
