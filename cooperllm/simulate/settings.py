"""What a simulation does, and the job files of its runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloud_service.job import Job, from_table
from cooperllm.simulate.link import Link
from cooperllm.simulate.material import Sources
from cooperllm.simulate.shards import Sharding
from device_runtime.errors import OptionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What the job file may not decide, because the simulation does.
RESERVED = ("bundle", "model", "public", "eval", "cohort_size", "seed", "name")

# Only what differs from a job's own defaults: processes on one machine need not wait long for each other.
DEFAULT_JOB: dict[str, Any] = {
    "retry_min_ms": 250,
    "retry_max_ms": 500,
    "evaluate_every_rounds": 10,
}

# What else differs where an estimator needs more than a head: two blocks, or a window. As many scalars say
# less about many parameters, so steps are shorter; a forward of the whole chain costs, so batches are small.
# The rate did best of 1e-3, 2e-3, 3e-3 and 5e-3 on a seed that no published figure is of. The public
# gradient stays out: beside the noise of so many parameters its variance-optimal weight is close to 1, and
# at a fit to public data it is 0, so the devices would move next to nothing.
WHOLE_CHAIN: dict[str, Any] = {
    "active_segments": "all",
    "batch_examples": 8,
    "learning_rate": 3e-3,
    "rounds": 40,
    "guide_weight": 0.0,
}

# What each comparison changes in the job. Data are the same, but for the labels of `shuffled`.
VARIANTS: dict[str, dict[str, Any]] = {
    "cooperllm": {},
    "devices_alone": {"estimator": "isotropic", "guide_weight": 0.0, "start": "bundle"},
    "shuffled": {},
}


@dataclass(frozen=True)
class Settings:
    """One `cooperllm simulate`: its options, checked."""

    sources: Sources
    devices: int
    seeds: tuple[int, ...]
    public: int
    sharding: Sharding
    model: str
    bundle: Path | None
    out: Path
    baselines: bool
    drop_duplicates: bool
    job: Mapping[str, Any] = field(
        default_factory=dict
    )  # DEFAULT_JOB, then --job's file, then single options
    links: tuple[Link, ...] = ()  # given to devices in turn; none: loopback

    def __post_init__(self) -> None:
        if not 1 <= self.devices <= 256:
            raise OptionError(f"--devices {self.devices}: use 1 to 256, each is a process of its own")
        if not self.seeds or min(self.seeds) < 0:
            raise OptionError("--seed, --seeds: use whole numbers from 0, and at least one seed")

    @property
    def adapter(self) -> str:
        """The adapter kind of a bundle that is exported for this: a chain's global loss needs bottlenecks."""
        return "bottleneck" if self.job.get("estimator") == "chainfed" else ""

    def job_for(self, variant: str, seed: int, bundle: Path, public: Path, evaluation: Path) -> Job:
        """Make the job of one run. Raises OptionError that names the setting: show it, correct it."""
        table = {
            "min_reports": self.devices,
            **self.job,
            **VARIANTS[variant],
            "name": f"simulate-{variant}-{seed}",
            "bundle": str(bundle),
            "public": str(public),
            "eval": str(evaluation),
            "model": self.model,
            "cohort_size": self.devices,
            "seed": seed,
        }
        return from_table(table)


def job_table(job_file: Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the job's settings over each other: the defaults, then the file's, then the options that were
    given.

    Raises OptionError when the file is not TOML or decides what is the simulation's to decide: show it,
    correct it.
    """
    table = dict(DEFAULT_JOB)
    if job_file is not None:
        try:
            given = tomllib.loads(job_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(
                f"--job {job_file}: cannot be read ({getattr(error, 'strerror', None) or error})"
            ) from None
        except tomllib.TOMLDecodeError as error:
            raise OptionError(f"--job {job_file} is not TOML: {error}") from None
        for name in RESERVED:
            if name in given:
                raise OptionError(
                    f"--job {job_file}: {name} follows from the simulation's own options: remove it"
                )
        table.update(given)
    table.update({name: value for name, value in options.items() if value is not None})
    if table.get("estimator") in ("fedspzo", "chainfed"):
        table = WHOLE_CHAIN | table
    return table


def to_toml(table: Mapping[str, Any]) -> str:
    """Write texts, numbers, booleans and lists of them as TOML: for these, JSON's literals are TOML's."""
    return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in table.items())


def write_job(path: Path, job: Job) -> Path:
    """Write a job file that `cooperllm serve --job` reads, with every setting in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_toml(job.to_json_object()), encoding="utf-8")
    return path
