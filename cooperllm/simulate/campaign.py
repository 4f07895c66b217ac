"""All runs of one simulation, seed by seed, and the folder that they leave behind."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from cooperllm.simulate import blocks, bounds, folder, material, shards, stages
from cooperllm.simulate.bits import guide_bits
from cooperllm.simulate.federation import Federation, Plan
from cooperllm.simulate.ledger import SERVICE, device_name
from cooperllm.simulate.live import View
from cooperllm.simulate.material import Material
from cooperllm.simulate.model_cache import exported_bundle
from cooperllm.simulate.outcome import TITLES, Outcome, Run, figures_of, traffic_of
from cooperllm.simulate.rounds import guide_spans, round_rows, round_spans
from cooperllm.simulate.settings import VARIANTS, Settings, write_job
from device_runtime.bundle import Bundle
from device_runtime.errors import InputError


def simulate(settings: Settings, view: View) -> Outcome:
    """Run everything and write the run folder.

    Raises CooperLLMError, one line: show it. No process is left, and what was finished is in the folder.
    """
    started_s = time.monotonic()
    pools = material.load(settings.sources)
    dealt = {
        seed: material.prepare(
            pools, settings.devices, settings.public, settings.sharding, seed, settings.drop_duplicates
        )
        for seed in settings.seeds
    }
    bundle = _bundle(settings, pools.class_names, view)
    first = dealt[settings.seeds[0]]
    view.say(
        f"{pools.name}: {len(first.private)} private examples on {settings.devices} devices "
        f"({settings.sharding}), "
        f"{len(first.public)} public, {len(first.eval)} to score with; {len(pools.class_names)} classes"
    )
    if settings.links:
        view.say(f"Links, in turn: {'; '.join(map(str, settings.links))}")
    settings.out.mkdir(parents=True, exist_ok=True)
    variants = list(VARIANTS) if settings.baselines else ["cooperllm"]
    runs: dict[tuple[str, int], Run] = {}
    levels: dict[str, list[float]] = {}
    for seed, data in dealt.items():
        public, evaluation = _write_common(settings.out, seed, data)
        with ExitStack() as beside:
            if settings.baselines:
                reached = beside.enter_context(_bounds(settings, seed, bundle, data, public, evaluation))
            for variant in variants:
                runs[variant, seed] = _run(settings, variant, seed, bundle, data, public, evaluation, view)
            if settings.baselines:
                for key, accuracy in reached(view).items():
                    levels.setdefault(key, []).append(accuracy)
    figures = figures_of(runs, levels, settings.seeds)
    folder.write(settings, pools, first, bundle, runs, figures)
    return Outcome(
        folder=settings.out,
        figures=figures,
        unequal=[
            f"{TITLES[key]}, seed {seed}: {line}" for (key, seed), run in runs.items() for line in run.unequal
        ],
        compared=sum(len(row.device_sha256) for run in runs.values() for row in run.rows),
        adapter_sha256=[runs["cooperllm", seed].rows[-1].adapter_sha256 for seed in settings.seeds],
        chains=[stages.summary(runs["cooperllm", seed].rows) for seed in settings.seeds],
        blocks=[blocks.summary(runs["cooperllm", seed].rows) for seed in settings.seeds],
        refusals=[line for run in runs.values() for line in run.refusals],
        crossings=runs["cooperllm", settings.seeds[0]].crossings,
        typical=runs["cooperllm", settings.seeds[0]].typical,
        guides=runs["cooperllm", settings.seeds[0]].guides,
        traffic=traffic_of(runs["cooperllm", settings.seeds[0]].rows),
        duration_s=time.monotonic() - started_s,
    )


def _bundle(settings: Settings, class_names: Sequence[str], view: View) -> Bundle:
    if settings.bundle is None:
        view.say("Bundle: looking in the cache, exporting if it is not there (about a minute, once)")
        path, _ = exported_bundle(settings.model, class_names, settings.adapter)
        return Bundle.open(path)
    bundle = Bundle.open(settings.bundle)
    if bundle.known_labels is not None and not set(class_names) <= set(bundle.known_labels):
        raise InputError(
            f"{settings.bundle}: made for the classes {', '.join(bundle.class_names)}, the data have "
            f"{', '.join(class_names)}; export one for these, or leave --bundle out"
        )
    return bundle


def _write_common(out: Path, seed: int, data: Material) -> tuple[Path, Path]:
    place = out / "data" / f"seed-{seed}"
    return (
        material.write_examples(place / "public.tsv", data.public),
        material.write_examples(place / "eval.tsv", data.eval),
    )


def _bounds(
    settings: Settings,
    seed: int,
    bundle: Bundle,
    data: Material,
    public: Path,
    evaluation: Path,
) -> AbstractContextManager[Callable[[View], dict[str, float]]]:
    place = settings.out / "runs" / f"seed-{seed}" / "back-propagation"
    job = settings.job_for("cooperllm", seed, bundle.folder.resolve(), public.resolve(), evaluation.resolve())
    private = material.write_examples(place / "private.tsv", data.private)
    return bounds.measuring(write_job(place / "job.toml", job), private, place / "log")


def _run(
    settings: Settings,
    variant: str,
    seed: int,
    bundle: Bundle,
    data: Material,
    public: Path,
    evaluation: Path,
    view: View,
) -> Run:
    started_s = time.monotonic()
    place = settings.out / "runs" / f"seed-{seed}" / variant
    parts = shards.with_shuffled_labels(data.shards, seed) if variant == "shuffled" else data.shards
    files = [
        material.write_examples(place / "data" / f"device-{n}.tsv", part) for n, part in enumerate(parts)
    ]
    job = settings.job_for(variant, seed, bundle.folder.resolve(), public.resolve(), evaluation.resolve())
    title = TITLES[variant] if len(settings.seeds) == 1 else f"{TITLES[variant]}, seed {seed}"
    # The run itself shows what a bundle costs to download; the comparisons need not pay for it again. Over a
    # link it would hide for minutes what rounds cost.
    installed = None if variant == "cooperllm" and not settings.links else bundle
    plan = Plan(
        title, place, write_job(place / "job.toml", job), files, job.rounds, seed, installed,
        links=settings.links,
    )  # fmt: skip
    try:
        with Federation(plan) as federation:
            federation.run(view)
            return _harvest(federation, variant, seed, bundle, started_s)
    finally:
        # Each device holds the whole program: with 8 devices and 3 runs that would leave gigabytes behind.
        for state in (SERVICE, *map(device_name, range(settings.devices))):
            shutil.rmtree(place / state, ignore_errors=True)


def _harvest(federation: Federation, variant: str, seed: int, bundle: Bundle, started_s: float) -> Run:
    """Ask the service, which still answers, for all that its run leaves."""
    ledger, service = federation.ledger, federation.operator
    assert service is not None  # it answered, or the run would not have finished
    rounds = service.rounds()
    federation.history.read(service, [int(row["round"]) for row in rounds], most=len(rounds))
    devices, details = ledger.devices.values(), federation.history.rows()
    return Run(
        rows=round_rows(rounds, variant, seed, ledger),
        spans=[
            *ledger.spans,
            *round_spans(rounds),
            *stages.spans(rounds),
            *guide_spans(details, ledger.device_by_task),
        ],
        unequal=ledger.unequal(),
        refusals=ledger.refusals,
        final=service.final_adapter(bundle.layout),
        skipped_examples=sum(device.skipped_examples for device in devices),
        truncated_examples=sum(device.truncated_examples for device in devices),
        crossings=federation.crossings(),
        guides=guide_bits(details, bundle.layout),
        duration_s=time.monotonic() - started_s,
    )
