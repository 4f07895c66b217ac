"""A device after a loss of power: any file of its store cut at any byte, or the process killed at any moment.

Whatever was lost, the next process reads whole things or none, does the same task with the same result, and
never forgets what was disclosed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device_runtime import groups
from device_runtime.errors import Stopped
from device_runtime.personal import Personal
from device_runtime.progress import Progress
from device_runtime.store import Store
from device_runtime.versions import adapter_sha256

from .world import World, directions

ROOT = Path(__file__).parents[2]


def rich_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A device in the middle of its second task, with everything in its store that a store can hold."""
    monkeypatch.setattr(groups, "GROUP_S", 0.0)
    world = World(folder)
    world.turn(world.task())
    world.store.write_key(b"pem")
    world.store.write_personal(Personal("b" * 64, "a" * 64, 3, world.adapter).to_bytes())
    measure, left = world.engine.measure, [3]

    def stopping(*arguments: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise Stopped("power is gone")
        return measure(*arguments)  # type: ignore[arg-type]

    world.engine.measure = stopping  # type: ignore[assignment, method-assign]
    with pytest.raises(Stopped):
        world.turn(world.task(2, world.unchanged(), directions=directions(6, batch_seed=8)))
    world.store.close()
    return world


def small_files(folder: Path) -> list[Path]:
    """All files but the lock and the bundle's, which are checked against the manifest at every load."""
    return sorted(
        p for p in folder.rglob("*") if p.is_file() and p.name != "lock" and "bundles" not in p.parts
    )


def test_every_file_of_the_store_cut_at_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = rich_world(tmp_path, monkeypatch)
    whole = Store(tmp_path / "store")
    state, progress, adapter = whole.state, whole.progress.of("task-2"), whole.read_adapter()
    whole.close()
    assert len(progress) == 3
    draw, seen = random.Random(4), set[str]()
    for path in small_files(tmp_path / "store"):
        content = path.read_bytes()
        for size in {0, 1, len(content) - 1, *(draw.randrange(len(content)) for _ in range(25))}:
            path.write_bytes(content[:size])
            seen.add(path.relative_to(tmp_path / "store").parts[0])
            with Store(tmp_path / "store") as store:
                assert store.state == state
                assert store.read_key() == b"pem"
                kept = store.progress.of("task-2")
                assert kept == progress[: len(kept)]
                assert store.read_adapter() in (adapter, None)
                personal = Personal.from_bytes(store.read_personal(), "b" * 64)
                assert personal is None or personal.difference.tobytes() == world.adapter.tobytes()
            path.write_bytes(content)
    assert seen >= {"state", "state.copy", "key", "key.copy", "progress", "adapters", "personal", "artifacts"}


@pytest.mark.parametrize("name", ["state", "state.copy", "progress", "adapters", "artifacts"])
def test_the_task_goes_on_to_the_same_result_after_a_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = World(tmp_path / "whole")
    whole.turn(whole.task())
    whole.turn(whole.task(2, whole.unchanged(), directions=directions(6, batch_seed=8)))
    world = rich_world(tmp_path / "cut", monkeypatch)
    path = next(p for p in small_files(tmp_path / "cut" / "store") if name in (p.name, p.parent.name))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    world.start()
    claims = world.store.read_adapter() is not None
    update = world.unchanged() if claims else world.snapshot(world.adapter, 1)
    world.turn(world.task(2, update, directions=directions(6, batch_seed=8)))
    assert bool(world.cloud.check_ins[-1].adapter_sha256) == claims == (name != "adapters")
    assert world.cloud.reports[-1].scalars == whole.cloud.reports[-1].scalars
    assert world.store.state.disclosed == whole.store.state.disclosed == {"1": [4, 0], "2": [6, 0]}
    assert adapter_sha256(world.engine.adapter).hex() == world.store.state.adapter_sha256


def test_progress_cut_or_altered_anywhere_gives_the_whole_lines_before(tmp_path: Path) -> None:
    path, lines = tmp_path / "progress", [[0.1], [-2.5, 3e-300], [7.0]]
    progress = Progress(path)
    ends = []
    for scalars in lines:
        progress.add("task", scalars)
        ends.append(path.stat().st_size)
    content = path.read_bytes()
    sums = [sum(lines[:count], list[float]()) for count in range(4)]
    for size in range(len(content)):
        whole = sum(end <= size for end in ends)
        path.write_bytes(content[:size])
        assert Progress(path).of("task") == sums[whole]
        path.write_bytes(content[:size] + bytes([content[size] ^ 1]) + content[size + 1 :])
        again = Progress(path)
        assert again.of("task") == sums[whole]
        again.add("task", [9.0])  # goes on behind the last whole line
        assert Progress(path).of("task") == again.of("task") == [*sums[whole], 9.0]
    assert Progress(path).of("other") == []


def test_progress_is_forced_to_the_disk_at_most_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[float] = []
    now_s = [0.0]
    monkeypatch.setattr(os, "fsync", lambda descriptor: forced.append(now_s[0]))
    progress = Progress(tmp_path / "progress", lambda: now_s[0])
    for tenth in range(31):
        now_s[0] = tenth / 10
        progress.add("task", [0.5])
    assert forced == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]  # the file and its folder
    assert Progress(tmp_path / "progress").of("task") == [0.5] * 31


WRITER = """
import sys
import numpy as np
from device_runtime.personal import Personal
from device_runtime.store import Store
with Store(sys.argv[1]) as store:
    number = store.state.pending_round
    print("ready", flush=True)
    while True:
        number += 1
        store.write_adapter(number, number.to_bytes(4, "little") * 3000)
        store.write_personal(Personal("b" * 64, str(number), number, np.full(500, number, "f")).to_bytes())
        for j in range(len(store.progress.of(str(number))), 5):
            store.progress.add(str(number), [number + j / 8])
        disclosed = {str(n): [n, 0] for n in range(number, max(0, number - 60), -1)}
        store.update(pending_round=number, disclosed=disclosed, pending_report="ab" * (number % 700))
        store.progress.clear()
"""


def killed(folder: Path, delay_s: float) -> None:
    """Runs the writer in a process and kills it."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay_s)
        os.kill(process.pid, signal.SIGKILL)


def check_whole(folder: Path) -> int:
    """What the writer left is of one round or the next, and nothing is half. Returns the round."""
    with Store(folder) as store:
        state, number = store.state, store.state.pending_round
        assert state.adapter_version in (number, number + 1)
        adapter = store.read_adapter()
        assert adapter == (state.adapter_version.to_bytes(4, "little") * 3000 if number else adapter)
        assert state.disclosed == {str(n): [n, 0] for n in range(number, max(0, number - 60), -1)}
        assert state.pending_report == "ab" * (number % 700)
        personal = Personal.from_bytes(store.read_personal(), "b" * 64)
        assert personal is None or set(personal.difference) == {float(personal.steps)}
        assert personal is None or personal.steps in (number, number + 1)
        for n in (number, number + 1):
            kept = store.progress.of(str(n))
            assert kept == [n + j / 8 for j in range(len(kept))]
        assert not list(folder.rglob("*.tmp"))
    return number


def rounds_under_kills(folder: Path, kills: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    rounds = []
    for _ in range(kills):
        killed(folder, draw.uniform(0.0, 0.15))
        rounds.append(check_whole(folder))
    return rounds


def test_a_process_killed_at_any_moment_leaves_one_round_or_the_next(tmp_path: Path) -> None:
    rounds = rounds_under_kills(tmp_path, 5, seed=1)
    while rounds[-1] == 0 and len(rounds) < 30:  # a machine with much else to do
        rounds += rounds_under_kills(tmp_path, 1, seed=len(rounds))
    assert rounds == sorted(rounds)
    assert rounds[-1] > 0


@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 3])
def test_many_kills_and_cuts(tmp_path: Path, seed: int) -> None:
    """Between kills, one copy of the state is cut as well: the other has all of it."""
    draw = random.Random(seed)
    rounds = [0]
    for _ in range(60):
        rounds += rounds_under_kills(tmp_path, 1, draw.randrange(2**32))
        pair = [tmp_path / name for name in ("state", "state.copy")]
        if all(path.exists() for path in pair):  # not where one was cut before, and nothing written since
            path = draw.choice(pair)
            path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])
        rounds.append(check_whole(tmp_path))
        # One less: killed between the two writes, and then the newer one was cut.
        assert rounds[-2] - rounds[-1] in (0, 1)
    assert rounds[-1] > 10
