"""A job: what is learned, from which bundle, by which estimator, for how many rounds. Read from TOML."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_service.job_keys import AUTOMATIC, CHOICES, RANGES
from device_runtime.errors import OptionError

if TYPE_CHECKING:
    from device_runtime.bundle import Bundle

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Job:
    """One job's settings; every field is a key of the TOML file. Raises OptionError: correct the file.

    None stands for "auto": the variance-optimal `guide_weight`, the `guide_level` that hides the downlink
    (see compression.py), the `boundary` and `per_prefix` that cost
    least (see split.py), the `chain_start` that the devices' scores say (see chain.py). `active_segments` is
    "all", "head" or a list.
    """

    name: str
    bundle: str  # folder of the bundle
    public: str = ""  # file of labelled public examples; needed by zgr, scale and public_fit
    eval: str = ""  # file of labelled examples that the cloud scores each evaluated version with
    model: str = ""  # folder or Hugging Face id of the source weights; empty: what the manifest names
    rounds: int = 60
    cohort_size: int = 8
    min_clients: int = 0  # round 0 waits for so many; 0: cohort_size
    min_reports: int = 1  # a round never closes with fewer
    estimator: str = "isotropic"
    directions: str = "per_device"
    directions_per_task: int = 64
    batch_examples: int = 64
    epsilon: float = 1e-2
    learning_rate: float = 1e-2
    learning_rate_decay: str = "linear"  # to 0 over the job's rounds; or "none"
    momentum: float = 0.9
    guide_weight: float | None = None
    guide_sampling: str = "whole"  # or "by_segment": each segment's from its own part of the public examples
    guide_staleness: int = 1  # versions between the one a guide was sampled from and the round's: 0 or 1
    guide_level: int | None = None  # of compression, 0 for float32; None: chosen for each device
    guide_cosine: float = 0.95  # the least, of a guide as received with the guide as sampled
    pipelined: bool = True  # sampling, downlink and computing of a guide overlap, segment by segment
    isotropic_fraction: float = 0.5
    paper_form: bool = False
    exact_head: bool = False  # slopes in the head alone, without differences
    boundary: int | None = None  # with fedspzo: first segment of the second block
    per_prefix: int | None = None  # with fedspzo: P2, perturbations of the second block for each of the first
    chain_window: int = 2  # with chainfed: segments of a window
    # With chainfed: lambda. The branch has the later segments' adapters without their frozen parts, so it may
    # steer a window but not lead it: at 0.2 it has a sixth of the loss. The paper does not say its own.
    chain_global_weight: float = 0.2
    chain_threshold: float = 0.8  # with chainfed: T, below which a segment's mean CKA starts the chain
    chain_start: int | None = None  # with chainfed: first segment of the first window
    chain_last_share: float = 0.25  # with chainfed: of the rounds, for the stage that is end to end
    active_segments: str | tuple[int, ...] = "head"
    scale: str = "public"
    start: str = "public_fit"
    local_steps: int = 1  # batches in one task
    local_learning_rate: float = 0.0  # > 0: the device moves its own copy between those batches
    seed: int = 0
    lease_s: float = 600.0
    refill_wait_s: float = 30.0  # how long an expired lease waits for another client before the round closes
    version_form: str = "auto"
    snapshot_every_rounds: int = 16
    evaluate_every_rounds: int = 5  # 0: only the last version
    scalar_clip: float = 0.0
    scalar_noise_std: float = 0.0
    retry_min_ms: int = 1_000
    retry_max_ms: int = 5_000

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise OptionError(f"job: {name} = {getattr(self, name)!r}: use one of {', '.join(allowed)}")
        for name, (smallest, largest) in RANGES.items():
            value = getattr(self, name)
            if name in AUTOMATIC and value is None:
                continue
            if not (math.isfinite(value) and smallest <= value <= largest):
                raise OptionError(f"job: {name} = {value}: use a number from {smallest:g} to {largest:g}")
        self._check_together()

    def _check_together(self) -> None:
        if not self.name or len(self.name) > 64:
            raise OptionError("job: name must have 1 to 64 characters")
        if not self.bundle:
            raise OptionError("job: bundle must name the folder that `cooperllm export` wrote")
        if self.guide_weight is not None and not 0.0 <= self.guide_weight <= 1.0:
            raise OptionError(f'job: guide_weight = {self.guide_weight}: use "auto" or a number from 0 to 1')
        if isinstance(self.active_segments, str):
            if self.active_segments not in ("all", "head"):
                raise OptionError('job: active_segments: use "all", "head" or a list of segment numbers')
        elif not self.active_segments or list(self.active_segments) != sorted(set(self.active_segments)):
            raise OptionError("job: active_segments must be a list of different segment numbers, ascending")
        if self.exact_head and (self.estimator != "isotropic" or self.active_segments != "head"):
            raise OptionError(
                'job: exact_head = true needs estimator = "isotropic" and active_segments = "head"'
            )
        if self.estimator == "chainfed" and self.active_segments != "all":
            raise OptionError('job: estimator = "chainfed" needs active_segments = "all"')
        for key, chosen in (("estimator", "zgr"), ("scale", "public"), ("start", "public_fit")):
            if getattr(self, key) == chosen and not self.public:
                raise OptionError(
                    f'job: {key} = "{chosen}" needs public = a file of labelled public examples'
                )
        self._check_numbers()

    def _check_numbers(self) -> None:
        if self.directions_per_task % (self.per_prefix or 1):
            raise OptionError("job: directions_per_task must be a multiple of per_prefix")
        if self.retry_max_ms < self.retry_min_ms:
            raise OptionError("job: retry_max_ms must not be smaller than retry_min_ms")
        if self.min_reports > self.cohort_size:
            raise OptionError("job: min_reports must not be larger than cohort_size")
        if self.min_clients and self.min_clients < self.cohort_size:
            raise OptionError("job: min_clients must be 0 or at least cohort_size")

    @property
    def wanted_clients(self) -> int:
        """Number of clients that must have checked in before round 0 opens."""
        return max(self.min_clients, self.cohort_size)

    def segments(self, count: int) -> tuple[int, ...]:
        """Active segments of a program with `count` of them, the head (number count - 1) included.

        Raises OptionError when the job names a segment that the bundle does not have: show it, correct the
        job.
        """
        if self.active_segments == "head":
            return (count - 1,)
        if isinstance(self.active_segments, str):
            return tuple(range(count))
        if self.active_segments[-1] >= count or self.active_segments[0] < 0:
            raise OptionError(f"job: active_segments: this bundle has segments 0 to {count - 1}")
        return self.active_segments

    def segments_of(self, bundle: Bundle) -> tuple[int, ...]:
        """Those of the active segments in which a bundle's adapter has parameters.

        Raises OptionError when that is none, or as `segments` does.
        """
        if self.exact_head and "head_gradient" not in {m.name for m in bundle.manifest.chain.methods}:
            raise OptionError("job: exact_head: this bundle has no method head_gradient; export it again")
        owned = bundle.layout.segments
        active = tuple(k for k in self.segments(bundle.manifest.chain.segments + 1) if k in owned)
        if not active:
            numbers = ", ".join(map(str, owned))
            raise OptionError(
                f"job: active_segments: the bundle's adapter has no parameters there, only in {numbers}; "
                'use "all" or some of these'
            )
        return active

    def to_json_object(self) -> dict[str, Any]:
        """The settings as JSON values, in the form that `from_table` reads."""
        table: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in AUTOMATIC:
            table[name] = "auto" if table[name] is None else table[name]
        if not isinstance(self.active_segments, str):
            table["active_segments"] = list(self.active_segments)
        return table


def _typed(name: str, value: object, annotation: str) -> Any:
    if annotation == "bool" and isinstance(value, bool):
        return value
    if annotation == "int" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if annotation == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if annotation == "str" and isinstance(value, str):
        return value
    kind = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text"}[
        annotation
    ]
    raise OptionError(f"job: {name} = {value!r}: use {kind}")


def from_table(table: Mapping[str, object], folder: Path | None = None) -> Job:
    """Makes a Job of a TOML table; relative paths in it count from `folder`.

    Raises OptionError, one line that names the key: show it, correct the file.
    """
    known = {field.name: field for field in fields(Job)}
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise OptionError(f"job: unknown key {unknown[0]}; known keys: {', '.join(sorted(known))}")
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name in AUTOMATIC:
            values[name] = None if value == "auto" else _typed(name, value, AUTOMATIC[name])
        elif name == "active_segments" and isinstance(value, list):
            values[name] = tuple(_typed(name, item, "int") for item in value)
        elif name == "active_segments":
            values[name] = _typed(name, value, "str")
        else:
            values[name] = _typed(name, value, str(known[name].type))
    for name, field in known.items():
        if name not in values and field.default is MISSING:
            raise OptionError(f"job: {name} is missing")
    if folder is not None:
        for name in ("bundle", "public", "eval"):
            if values.get(name):
                values[name] = str((folder / values[name]).resolve())
    return Job(**values)


def read_job(path: Path) -> Job:
    """Reads a job file. Relative paths in it count from the file's folder.

    Raises OptionError: show it, correct the file.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"job: cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"job: {path} is not TOML: {error}") from None
    return from_table(table, path.parent)
