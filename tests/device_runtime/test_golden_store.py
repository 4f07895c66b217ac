"""The golden stores and bundle: Kotlin's open here, and what Kotlin reads is what is written here."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from device_runtime.bundle import Bundle
from device_runtime.store import Store
from tests.golden import make_store
from tests.golden.blob import FOLDER

from .toy_bundle import toy_adapter


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_this_release_still_writes_the_golden_store(tmp_path: Path) -> None:
    make_store.write_store(tmp_path)
    assert files(tmp_path) == files(FOLDER / "store" / "python")


def test_a_store_that_kotlin_wrote_opens_and_goes_on(tmp_path: Path) -> None:
    expected = make_store.write_store(tmp_path / "python")
    shutil.copytree(FOLDER / "store" / "kotlin", tmp_path / "kotlin")
    with Store(tmp_path / "kotlin") as store:
        assert store.state == expected
        assert store.read_key() == make_store.KEY
        assert store.read_adapter() == make_store.ADAPTER
        assert store.read_personal() == make_store.PERSONAL
        pieces = expected.guides[make_store.GUIDE_NAME]
        assert [store.read("guides", str(pieces[segment][1])) for segment in "02"] == [make_store.GUIDE] * 2
        assert store.progress.of(make_store.TASK) == make_store.SCALARS
        store.progress.add(make_store.TASK, [9.0])
    with Store(tmp_path / "kotlin") as store:
        assert store.progress.of(make_store.TASK) == [*make_store.SCALARS, 9.0]


def test_the_golden_bundle_opens(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "bundle", tmp_path / "bundle")
    shutil.copy(FOLDER / "toy.pte", tmp_path / "bundle" / "program.pte")
    bundle = Bundle.open(tmp_path / "bundle")
    assert np.array_equal(bundle.adapter, toy_adapter(bundle.layout))
