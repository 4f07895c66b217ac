"""What the keys of a job may be: choices, ranges, which may be "auto", and which may change later."""

from __future__ import annotations

CHOICES: dict[str, tuple[str, ...]] = {
    "estimator": ("isotropic", "zgr", "fedspzo", "chainfed"),
    "directions": ("shared", "per_device"),
    "learning_rate_decay": ("linear", "none"),
    "guide_sampling": ("whole", "by_segment"),
    "scale": ("public", "none"),
    "start": ("public_fit", "bundle"),
    "version_form": ("auto", "record", "delta", "snapshot", "mixed"),
}

# name -> (smallest, largest); both are allowed.
RANGES: dict[str, tuple[float, float]] = {
    "rounds": (1, 1_000_000),
    "cohort_size": (1, 100_000),
    "min_clients": (0, 1_000_000),
    "min_reports": (1, 100_000),
    "directions_per_task": (1, 65_536),
    "batch_examples": (8, 65_536),
    "epsilon": (1e-9, 1e3),
    "learning_rate": (0.0, 1e9),
    "momentum": (0.0, 0.999999),
    "isotropic_fraction": (0.0, 1.0),
    "guide_staleness": (0, 1),
    "guide_level": (0, 9),
    "guide_cosine": (0.0, 1.0),
    "boundary": (1, 65_536),
    "per_prefix": (1, 65_536),
    "chain_window": (1, 65_536),
    "chain_global_weight": (0.0, 1e6),
    "chain_threshold": (0.0, 1.0),
    "chain_start": (0, 65_536),
    "chain_last_share": (0.0, 1.0),
    "local_steps": (1, 10_000),
    "local_learning_rate": (0.0, 1e9),
    "seed": (0, 2**63 - 1),
    "lease_s": (0.1, 604_800),
    "refill_wait_s": (0.0, 604_800),
    "snapshot_every_rounds": (1, 1_000_000),
    "evaluate_every_rounds": (0, 1_000_000),
    "scalar_clip": (0.0, 1e30),
    "scalar_noise_std": (0.0, 1e30),
    "retry_min_ms": (1, 86_400_000),
    "retry_max_ms": (1, 86_400_000),
}


# These may be "auto", which is None here; else a number of this type.
AUTOMATIC = {
    "guide_weight": "float",
    "guide_level": "int",
    "boundary": "int",
    "per_prefix": "int",
    "chain_start": "int",
}

# May differ when a job is taken up again: they change when and how things travel, never a result. The
# paths are here because what counts is the files' content.
OPERATIONAL = frozenset({
    "bundle", "public", "eval", "model", "lease_s", "refill_wait_s", "version_form", "snapshot_every_rounds",
    "retry_min_ms", "retry_max_ms", "evaluate_every_rounds", "pipelined",
})  # fmt: skip
