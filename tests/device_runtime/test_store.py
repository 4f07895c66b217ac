"""The store under kills, damage, full disks and a second process."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device_runtime.durable import write_file, write_sealed_pair
from device_runtime.errors import StoreError, StoreFull, StoreInUse
from device_runtime.store import State, Store

ROOT = Path(__file__).parents[2]


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        store.write_key(b"pem")
        sha256 = store.write_adapter(3, b"\x00" * 12)
        state = store.update(disclosed={"4": [2, 1]}, pending_report="00ff")
    with Store(tmp_path / "s") as store:
        assert store.state == state
        assert (store.state.adapter_version, store.state.adapter_sha256) == (3, sha256)
        assert store.read_adapter() == b"\x00" * 12
        assert store.read_key() == b"pem"
        assert (tmp_path / "s" / "key").stat().st_mode & 0o077 == 0


def test_only_the_newest_adapter_is_kept(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.write_adapter(1, b"one")
        second = store.write_adapter(2, b"two")
        assert [path.name for path in (tmp_path / "adapters").iterdir()] == [second]


def test_a_second_process_is_refused_and_may_come_later(tmp_path: Path) -> None:
    with Store(tmp_path), pytest.raises(StoreInUse, match="in use by another process"):
        Store(tmp_path)
    Store(tmp_path).close()


@pytest.mark.parametrize("name", ["state", "key"])
def test_any_damage_to_one_of_two_copies_loses_nothing(tmp_path: Path, name: str) -> None:
    with Store(tmp_path) as store:
        store.write_key(b"private")
        kept = store.update(adapter_version=7)
    whole = (tmp_path / name).read_bytes()
    damaged = [whole[:size] for size in range(len(whole))]
    damaged += [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    for number, content in enumerate(damaged):
        path = tmp_path / (name, f"{name}.copy")[number % 2]
        path.write_bytes(content)
        with Store(tmp_path) as store:
            assert (store.state, store.read_key()) == (kept, b"private")
        assert not path.exists()
        path.write_bytes(whole)


def test_two_damaged_copies_read_as_absent(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.write_key(b"private")
        store.update(adapter_version=7)
    for path in tmp_path.glob("[ks]*"):
        path.write_bytes(path.read_bytes()[:-1])
    with Store(tmp_path) as store:
        assert (store.state, store.read_key()) == (State(), None)


def test_between_the_two_writes_the_newer_copy_counts_and_a_later_write_mends_the_other(
    tmp_path: Path,
) -> None:
    with Store(tmp_path) as store:
        store.update(disclosed={"1": [4, 0]})
        older = (tmp_path / "state").read_bytes()
        store.update(disclosed={"1": [8, 0]})
    for name in ("state.copy", "state"):
        newer = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(older)
        with Store(tmp_path) as store:
            assert store.state.disclosed == {"1": [8, 0]}
        (tmp_path / name).write_bytes(newer)
    (tmp_path / "state.copy").write_bytes(older)
    with Store(tmp_path) as store:
        store.update(adapter_version=1)
    (tmp_path / "state").unlink()
    with Store(tmp_path) as store:
        assert (store.state.disclosed, store.state.adapter_version) == ({"1": [8, 0]}, 1)


def test_a_damaged_adapter_or_guide_is_removed_and_reads_as_absent(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for kind in ("adapters", "guides", "artifacts"):
            sha256 = store.write(kind, b"0123456789")
            for content in (b"", b"01234", b"0123456780", b"0123456789x"):
                store.path(kind, sha256).write_bytes(content)
                assert store.read(kind, sha256) is None
                assert not store.path(kind, sha256).exists()
        store.write_adapter(1, b"abcd")
        store.path("adapters", store.state.adapter_sha256).write_bytes(b"abce")
        assert store.read_adapter() is None


def test_a_state_of_a_newer_release_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.update(adapter_version=7)
        content = b'{"adapter_version": 8, "invented_later": 1}'
        write_sealed_pair(tmp_path / "state", content)
    with Store(tmp_path) as store:
        assert store.state == State(adapter_version=8)


def test_forget_leaves_nothing(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.write_key(b"pem")
        store.write_adapter(3, b"abc")
        store.write("guides", b"abc")
        bundle = store.path("bundles", "0" * 64)
        bundle.mkdir()
        (bundle / "program.pte").write_bytes(b"x")
        store.forget()
        assert store.state == State()
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "lock"]


def test_names_that_are_no_hash_never_become_paths(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for name in ("", "../key", "0" * 63, "0" * 63 + "G", "A" * 64):
            with pytest.raises(ValueError, match="hash"):
                store.path("adapters", name)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot create"):
        Store(tmp_path / "file" / "store")


FULL = """
import resource, sys
from device_runtime.errors import StoreFull
from device_runtime.store import Store
with Store(sys.argv[1]) as store:
    store.write_adapter(1, b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    writes = (lambda: store.write_adapter(2, b"x" * 5000), lambda: store.update(pending_report="00" * 3000))
    for write in writes:
        try:
            write()
        except StoreFull as error:
            print(error)
    assert store.state.adapter_version == 1 and store.read_adapter() == b"old"
    assert not store.state.pending_report
    store.write_adapter(3, b"small")
"""


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "s")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("no space left" in line and "nothing was lost" in line for line in lines)
    with Store(tmp_path / "s") as store:
        assert (store.state.adapter_version, store.read_adapter()) == (3, b"small")
        assert not list((tmp_path / "s").rglob("*.tmp"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")
    path.with_name("file.tmp").mkdir()  # the temporary file cannot be opened
    with pytest.raises(StoreError):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert not isinstance(StoreError("x"), StoreFull)


WRITER = """
import sys
from device_runtime.store import Store
with Store(sys.argv[1]) as store:
    version = store.state.adapter_version
    print("ready", flush=True)
    while True:
        version += 1
        store.write_adapter(version, version.to_bytes(4, "little") * 2000)
        for number in range(version % 50):
            store.progress.add(str(version), [float(version), float(number)])
"""


def kill_writer_after(folder: Path, delay_s: float) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay_s)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def assert_progress_is_whole(store: Store) -> None:
    """What is kept is of the held version or the one before it, from its beginning, pair by pair."""
    version = store.state.adapter_version
    kept = [store.progress.of(str(task)) for task in range(version + 60)]
    assert not any(kept[version + 1 :])
    for task, scalars in enumerate(kept):
        assert scalars[::2] == [float(task)] * (len(scalars) // 2)
        assert scalars[1::2] == [float(number) for number in range(len(scalars) // 2)]


def test_a_kill_at_any_moment_leaves_a_whole_version(tmp_path: Path) -> None:
    draw = random.Random(20)
    versions = [0]
    for _ in range(8):
        kill_writer_after(tmp_path, draw.uniform(0.0, 0.1))
        with Store(tmp_path) as store:
            state = store.state
            versions.append(state.adapter_version)
            if state.adapter_version:
                assert store.read_adapter() == state.adapter_version.to_bytes(4, "little") * 2000
            assert_progress_is_whole(store)
            assert not list(tmp_path.rglob("*.tmp"))
    assert versions == sorted(versions)
    assert versions[-1] > 4  # kills came between writes, and not only before the first
