"""`cooperllm simulate` for real: processes on a tiny model, the folder that they leave, and kills."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cooperllm.simulate import material, shards
from cooperllm.simulate.federation import Federation, Plan
from cooperllm.simulate.ledger import SERVICE, Ledger
from cooperllm.simulate.link import Link
from cooperllm.simulate.live import Silent
from cooperllm.simulate.processes import Event
from cooperllm.simulate.records import read_rows
from cooperllm.simulate.settings import Settings, job_table, write_job
from cooperllm.simulate.shards import Sharding
from device_runtime.bundle import Bundle
from device_runtime.examples import read_examples
from tests.integration.conftest import TinyTask

ROUNDS = 4
DEVICES = 3
JOB = {
    "rounds": ROUNDS,
    # Far more than a device discloses about so small an adapter; it cannot say so before it has the bundle.
    "directions_per_task": 64,
    "batch_examples": 8,
    "active_segments": "all",
    "scale": "none",
    "start": "bundle",
    "lease_s": 60.0,
    # A step without momentum and without the public gradient is a record of seeds, which any device can
    # replay: so every form of a version can be asked for.
    "momentum": 0.0,
    "guide_weight": 0.0,
}


def plan(task: TinyTask, folder: Path, job: dict[str, object] | None = None, seed: int = 5) -> Plan:
    settings = Settings(
        sources=material.Sources(), devices=DEVICES, seeds=(seed,), public=32, sharding=Sharding(),
        model=str(task.model), bundle=task.bundle, out=folder, baselines=False, drop_duplicates=False,
        job=job_table(None, {**JOB, **(job or {})}),
    )  # fmt: skip
    parts = shards.shard(read_examples(task.pool), DEVICES, Sharding(), seed)
    files = [material.write_examples(folder / f"data-{n}.tsv", part) for n, part in enumerate(parts)]
    made = settings.job_for("cooperllm", seed, task.bundle, task.public, task.evaluation)
    return Plan("test", folder, write_job(folder / "job.toml", made), files, made.rounds, seed)


def federate(
    federation_plan: Plan, on_event: Callable[[Federation, Event], None] | None = None
) -> tuple[Ledger, Federation]:
    with Federation(federation_plan) as federation:
        ledger = federation.run(Silent(), on_event)
    assert ledger.unequal() == []
    assert ledger.refusals == []
    assert ledger.version == ROUNDS
    return ledger, federation


def processes_below(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in line and int(entry.name) != os.getpid():
                found.append(line)
    return found


@pytest.fixture(scope="module")
def undisturbed(tiny_task: TinyTask, tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return federate(plan(tiny_task, tmp_path_factory.mktemp("undisturbed")))[0]


def test_every_device_holds_every_version_bit_for_bit(undisturbed: Ledger) -> None:
    assert sorted(undisturbed.sha256_by_version) == list(range(ROUNDS + 1))
    for version, sha256 in undisturbed.sha256_by_version.items():
        assert undisturbed.copies(version) == {f"device-{n}": sha256 for n in range(DEVICES)}
    assert len(set(undisturbed.sha256_by_version.values())) == ROUNDS + 1


@pytest.mark.parametrize(
    "form", ["mixed", *(pytest.param(form, marks=pytest.mark.ci) for form in ("record", "delta", "snapshot"))]
)
def test_each_form_of_a_version_leads_to_the_same_adapters(
    form: str, tiny_task: TinyTask, undisturbed: Ledger, tmp_path: Path
) -> None:
    ledger, _ = federate(plan(tiny_task, tmp_path, {"version_form": form}))
    assert ledger.sha256_by_version == undisturbed.sha256_by_version
    used = {
        told
        for device in ledger.devices.values()
        for version, told in device.form_by_version.items()
        if version
    }
    # A device names a form as the field of the message that carried it. Version 0 is in the bundle or whole.
    expected = {"record": {"records"}, "delta": {"delta"}, "snapshot": {"snapshot"}}
    assert used == expected.get(form, {"records", "delta", "snapshot"})


class Killer:
    """Kills one process at seeded moments: after so many events of the devices, and a little later."""

    def __init__(self, victim: str, seed: int, kills: int) -> None:
        self._random = random.Random(f"{victim} {seed}")
        self.victim = victim
        self.left = kills
        self._wait_events = self._random.randrange(1, 25)

    def __call__(self, federation: Federation, event: Event) -> None:
        if self.left == 0 or event.kind in ("polled", "exited", "ready"):
            return
        self._wait_events -= 1
        if self._wait_events > 0 or not federation.children[self.victim].running:
            return
        time.sleep(self._random.random() * 0.05)
        federation.children[self.victim].kill()
        self.left -= 1
        self._wait_events = self._random.randrange(1, 25)


def killed_run(
    tiny_task: TinyTask,
    folder: Path,
    victim: str,
    seed: int,
    kills: int,
    job: dict[str, object] | None = None,
) -> tuple[Ledger, int]:
    killer = Killer(victim, seed, kills)
    ledger, federation = federate(plan(tiny_task, folder, job), killer)
    return ledger, federation.restarts


@pytest.mark.ci
@pytest.mark.parametrize("victim", [SERVICE, "device-1"])
def test_kill_and_restart_changes_no_bit(
    victim: str, tiny_task: TinyTask, undisturbed: Ledger, tmp_path: Path
) -> None:
    ledger, restarts = killed_run(tiny_task, tmp_path, victim, seed=0, kills=2)
    assert restarts >= 1
    assert ledger.sha256_by_version == undisturbed.sha256_by_version


@pytest.mark.ci
def test_kills_change_no_bit_where_versions_come_with_guides(tiny_task: TinyTask, tmp_path: Path) -> None:
    # A level of its own for each link would be another guide.
    job: dict[str, object] = {
        "version_form": "delta",
        "estimator": "zgr",
        "guide_level": 5,
        "evaluate_every_rounds": 0,
    }
    quiet, _ = federate(plan(tiny_task, tmp_path / "quiet", job))
    forms = [device.form_by_version for device in quiet.devices.values()]
    assert all(found[version] == "streamed" for found in forms for version in range(1, ROUNDS)), forms
    for victim in (SERVICE, "device-1"):
        ledger, restarts = killed_run(tiny_task, tmp_path / victim, victim, seed=0, kills=3, job=job)
        assert restarts >= 1
        assert ledger.sha256_by_version == quiet.sha256_by_version


@pytest.mark.long
@pytest.mark.parametrize("moment", range(20))
@pytest.mark.parametrize("victim", [SERVICE, "device-1"])
def test_kill_at_twenty_moments_changes_no_bit(
    victim: str, moment: int, tiny_task: TinyTask, undisturbed: Ledger, tmp_path: Path
) -> None:
    ledger, restarts = killed_run(tiny_task, tmp_path, victim, seed=100 + moment, kills=1)
    assert restarts == 1
    assert ledger.sha256_by_version == undisturbed.sha256_by_version


@pytest.mark.ci
def test_a_round_completes_without_a_killed_device_which_comes_back(
    tiny_task: TinyTask, tmp_path: Path
) -> None:
    rounds: list[dict[str, Any]] = []
    killed: list[bool] = []

    def watch(federation: Federation, event: Event) -> None:
        if event.kind == "polled":
            rounds[:] = event.body["rounds"] or rounds
        if not killed and event.child == "device-1" and event.kind == "task" and event.body["round"] == 1:
            federation.children["device-1"].kill()
            killed.append(True)

    job = {"lease_s": 4.0, "refill_wait_s": 0.5, "min_reports": DEVICES - 1}
    away = replace(plan(tiny_task, tmp_path, job), device_restart_after_s=8.0)
    ledger, _ = federate(away, watch)
    assert killed
    assert rounds[1]["diagnostics"]["reports"] == DEVICES - 1
    last = {f"device-{n}": ledger.sha256_by_version[ROUNDS] for n in range(DEVICES)}
    assert ledger.copies(ROUNDS) == last
    assert ledger.devices["device-1"].starts == 2


def simulate(task: TinyTask, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "cooperllm", "simulate", "--data", str(task.pool),
        "--public-data", str(task.public), "--eval", str(task.evaluation), "--model", str(task.model),
        "--bundle", str(task.bundle), "--devices", "2", "--shards", "iid", "--out", str(out), *more,
    ]  # fmt: skip


LINK = ["--link", "down=20mbit,up=10mbit,rtt=8ms"]
COMPARED = {"cooperllm", "public_alone", "devices_alone", "shuffled", "oracle"}


@pytest.mark.parametrize(
    ("options", "figures"),
    [(["--no-baselines"], {"cooperllm"}), pytest.param([], COMPARED, marks=pytest.mark.ci)],
)
def test_the_command_leaves_a_whole_run_folder(
    options: list[str], figures: set[str], tiny_task: TinyTask, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    job = tmp_path / "job.toml"
    job.write_text("directions_per_task = 4\nbatch_examples = 8\nevaluate_every_rounds = 1\n")
    done = subprocess.run(
        simulate(tiny_task, out, "--rounds", "3", "--job", str(job), "--format", "json", *LINK, *options),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [item["link"] for item in result["links"]] == ["20 Mbit/s down, 10 Mbit/s up, 8 ms round trip"] * 2
    # What the service counted went through the links, and what gRPC and HTTP add.
    for way in ("down", "up"):
        counted = sum(result["traffic"][f"{way}link_bytes"].values())
        assert counted < sum(item[f"{way}_bytes"] for item in result["links"]) < 3 * counted + 100_000
    assert result["unequal"] == []
    assert set(result["accuracy"]) == figures
    rows = read_rows(out / "metrics.jsonl")
    assert [row.version for row in rows if row.run == "cooperllm"] == [0, 1, 2, 3]
    assert all(row.accuracy is not None and len(row.device_sha256) == 2 for row in rows)
    assert rows[3].adapter_sha256 == result["adapter_sha256"][0]
    for name in (
        "accuracy.png",
        "loss.png",
        "timeline.json",
        "adapter.safetensors",
        "job.toml",
        "report.html",
    ):
        assert (out / name).stat().st_size > 100, name
    assert (out / "peft" / "adapter_model.safetensors").exists()
    page = (out / "report.html").read_text()
    assert "bit for bit" in page
    assert page.count("data:image/png;base64,") == 4
    assert str(tmp_path) not in page
    trace = json.loads((out / "timeline.json").read_text())["traceEvents"]
    assert {"cloud", "device-0", "device-1"} <= {
        e["args"]["name"] for e in trace if e["name"] == "process_name"
    }
    assert processes_below(out) == []


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.ci)])
def test_an_interrupt_leaves_no_process(number: signal.Signals, tiny_task: TinyTask, tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = subprocess.Popen(
        simulate(tiny_task, out, "--rounds", "1000", "--no-baselines"),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        # A shell starts what it runs in the background with SIGINT ignored, and that is inherited: by us too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(processes_below(out)) < 4 and time.monotonic() < deadline:  # itself, the service, two devices
        time.sleep(0.05)
    running.send_signal(number)
    _, error = running.communicate(timeout=30)
    assert running.returncode == 130, error
    assert error.strip().splitlines()[-1] == "cooperllm: interrupted"
    assert processes_below(out) == []


@pytest.mark.ci
def test_links_that_stall_and_break_change_no_bit(tiny_task: TinyTask, tmp_path: Path) -> None:
    """Guides, versions and reports get through a link that resets inside of them, and mean the same."""
    job = {"estimator": "zgr", "guide_weight": 0.5, "guide_level": 0, "version_form": "snapshot"}
    calm, _ = federate(plan(tiny_task, tmp_path / "calm", job))
    faulty = Link.parse("down=4mbit,up=2mbit,rtt=10ms,jitter=5ms,stall=100ms/2s,reset=12kb")
    there = Bundle.open(tiny_task.bundle)
    behind = replace(plan(tiny_task, tmp_path / "rough", job), links=(faulty,), installed=there)
    rough, federation = federate(behind)
    assert rough.sha256_by_version == calm.sha256_by_version
    for crossing, device in zip(federation.crossings(), rough.devices.values(), strict=True):
        assert device.downlink_bytes > 3 * faulty.reset_every_bytes  # it did break
        assert crossing.down_bytes < 4 * device.downlink_bytes
