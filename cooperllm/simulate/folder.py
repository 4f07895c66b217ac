"""The run folder: everything that a simulation found out, in files that outlive it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cooperllm
from cloud_service.peft_export import export_peft
from cooperllm.simulate import plots, records, report, round_plot, timeline
from cooperllm.simulate.material import Material, Pools
from cooperllm.simulate.outcome import Run, curves_of
from cooperllm.simulate.records import Figure
from cooperllm.simulate.report import Findings
from cooperllm.simulate.settings import Settings
from device_runtime.bundle import Bundle


def write(
    settings: Settings,
    pools: Pools,
    data: Material,
    bundle: Bundle,
    runs: Mapping[tuple[str, int], Run],
    figures: Sequence[Figure],
) -> None:
    """Write metrics, curves, timeline, adapter, job and report; `data` is that of the first seed."""
    out, first = settings.out, runs["cooperllm", settings.seeds[0]]
    for run in runs.values():
        records.append_rows(out / "metrics.jsonl", run.rows)
    curves = curves_of(runs)
    plots.write(out, curves, figures)
    timeline.write(out / "timeline.json", first.spans)
    if first.typical[0] is not None:
        (out / "round.png").write_bytes(round_plot.draw(first.typical[0]))
    if first.guides:
        (out / "bits.png").write_bytes(round_plot.draw_bits(first.guides))
    (out / "adapter.safetensors").write_bytes(first.final.safetensors)
    export_peft(bundle, first.final.values, out / "peft")
    job = out / "runs" / f"seed-{settings.seeds[0]}" / "cooperllm" / "job.toml"
    (out / "job.toml").write_bytes(job.read_bytes())
    report.write(
        out,
        Findings(
            title=f"{pools.name}, {settings.devices} devices",
            subtitle=_subtitle(settings, first),
            figures=figures,
            curves=curves,
            rows=[row for (key, _), run in runs.items() if key == "cooperllm" for row in run.rows],
            busy_s=timeline.busy_s(first.spans),
            settings=_settings(settings, job, bundle),
            platform={**_data(pools, data, settings, first), **_platform()},
            crossings=first.crossings,
            typical=first.typical,
            guides=first.guides,
        ),
    )


def _subtitle(settings: Settings, first: Run) -> str:
    rounds = first.rows[-1].version
    seeds = "one seed" if len(settings.seeds) == 1 else f"{len(settings.seeds)} seeds"
    where = "behind links of their own" if settings.links else "on loopback"
    return (
        f"{rounds} rounds of real device processes with the real service {where}, {seeds}; "
        f"the first run took {first.duration_s:.0f} s"
    )


def _settings(settings: Settings, job: Path, bundle: Bundle) -> dict[str, str]:
    shown = dict(line.split(" = ", 1) for line in job.read_text(encoding="utf-8").splitlines())
    for name in ("bundle", "model", "public", "eval", "name"):
        shown.pop(name, None)
    text, task, kind = bundle.manifest.text, bundle.manifest.task, bundle.manifest.adapter
    return {
        "model": f"{bundle.manifest.source.model}, {bundle.manifest.precision}, {task.pooling} pooling",
        "adapter": f"{bundle.layout.parameters} parameters, {kind.kind}" + (f" r={kind.r}" if kind.r else ""),
        "max_tokens": str(text.max_tokens),
        "bundle": bundle.sha256,
        "seeds": ", ".join(map(str, settings.seeds)),
        **{name: str(json.loads(value)) for name, value in shown.items()},
    }


def _data(pools: Pools, data: Material, settings: Settings, first: Run) -> dict[str, str]:
    sizes = [len(part) for part in data.shards]
    return {
        "private examples": f"{sum(sizes)} on {len(sizes)} devices ({min(sizes)} to {max(sizes)} each), "
        f"{settings.sharding}",
        "public examples": f"{len(data.public)}, "
        + ("a file of its own" if pools.public else "drawn from the same file"),
        "eval examples": str(len(data.eval)),
        "classes": ", ".join(pools.class_names[:20]) + (" ..." if len(pools.class_names) > 20 else ""),
        "texts cut to max_tokens": str(first.truncated_examples),
        "examples skipped": str(first.skipped_examples),
    }


def _platform() -> dict[str, str]:
    versions = []
    for package in ("executorch", "torch", "numpy", "grpcio"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} absent")
    return {
        "CooperLLM": cooperllm.__version__,
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "Python": platform.python_version(),
        "packages": ", ".join(versions),
    }
