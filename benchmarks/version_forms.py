"""What a version costs on the downlink in each exact form, where devices received guides of different bits.

    python -m benchmarks.version_forms [--quick] [--json FILE] [--plot FILE]

One round of eight devices with 32 directions each, over all parameters of MiniLM's LoRA and head and of a
small Llama's, along real public gradients (benchmarks/guide_samples.py); half of the devices got it one
level finer. What they measure is drawn as the slope along such directions is distributed. Forms: the record
alone, for a device that holds both guides; with one guide, or both, for a device that lacks them; a delta, in
one and in pieces by segment; the adapter whole, in pieces and as a snapshot; beside them zlib of the float32
difference. The cloud sends whichever is smallest (cloud_service/versions.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.guide_samples import MODELS, Sample, adapted
from cloud_service.compression import choose, encode, facts_of
from cloud_service.versions import snapshot
from device_runtime.bundle import Bundle
from device_runtime.core import kernels
from device_runtime.zo.direction import Direction, Guide, expand
from device_runtime.zo.spsa import Update
from protos import federation_pb2 as pb

DEVICES, DIRECTIONS, EPSILON, RATE, GUIDE_SHARE, FLOOR = 8, 32, 1e-3, 1e-2, 0.5, 0.95
Encoded = dict[int, bytes]  # by segment


def forms_of(bundle: Bundle, sample: Sample) -> dict[str, int]:
    """Bytes of each form of one round's version."""
    idle = [0.0] * len(sample.segments)
    coarse = choose(facts_of(sample.segments, sample.rms), idle, idle, 0.0, FLOOR)
    guides = [
        {k: encode(values, sample.rms, level) for k, values in enumerate(sample.segments)}
        for level in (coarse, max(1, coarse - 1))
    ]
    before = bundle.adapter.astype(np.float32)
    after, record = step(bundle, sample, before, guides)
    segments = bundle.layout.segments
    sent = [_message(number, guide).ByteSize() for number, guide in enumerate(guides)]

    def in_pieces(start: Any) -> int:
        return sum(len(kernels.encode_piece(start, after, bundle.layout, k)) for k in segments)

    return {
        "record": record.ByteSize(),
        "record and one guide": record.ByteSize() + max(sent),
        "record and both guides": record.ByteSize() + sum(sent),
        "delta": len(kernels.encode_delta(before, after, bundle.layout)),
        "delta in pieces": in_pieces(before),
        "zlib of the difference": len(zlib.compress((after - before).tobytes())),
        "adapter in pieces": in_pieces(None),
        "snapshot": len(snapshot(after, bundle.layout)),
    }


def step(
    bundle: Bundle, sample: Sample, before: np.ndarray, guides: list[Encoded]
) -> tuple[np.ndarray, pb.Record]:
    """The next adapter and its record, of directions along the two guides in turn."""
    random, whole = np.random.default_rng(0), sample.whole.astype(np.float64)
    record = pb.Record(epsilon=EPSILON, update_seed=7, active_segments=bundle.layout.segments)
    directions: list[Direction] = []
    unit = 1.0 / sample.rms  # guides are about as long as the noise
    for device in range(DEVICES):
        received = np.concatenate(
            [kernels.decode_guide(data, sample.segments[k].size) for k, data in guides[device % 2].items()]
        )
        along = Guide(received, GUIDE_SHARE * unit)
        first = Direction(1000 * device, 1.0, None, (along,), bundle.layout.segments)
        directions += expand(first, DIRECTIONS, 1)
        term = pb.GuideTerm(guide_sha256=_name(device % 2), coefficient=GUIDE_SHARE * unit)
        record.directions.add(seed=1000 * device, count=DIRECTIONS, isotropic_scale=1.0, guides=[term])
        slope = GUIDE_SHARE * unit * float(received @ whole)
        rho = slope + random.normal(size=DIRECTIONS) * float(np.linalg.norm(whole))
        record.coefficients.extend(-RATE * rho / (DEVICES * DIRECTIONS * np.linalg.norm(whole)))
    after = before.copy()
    update = Update(EPSILON, 7, tuple(directions), tuple(record.coefficients), (), bundle.layout.segments)
    kernels.apply_update(after, bundle.layout, update)
    return after, record


def _name(number: int) -> bytes:
    return bytes([number]) * 32


def _message(number: int, guide: Encoded) -> pb.EncodedGuide:
    segments = [
        pb.EncodedSegment(segment=k, encoding=pb.GUIDE_ENCODING_CODED, data=data) for k, data in guide.items()
    ]
    return pb.EncodedGuide(sha256=_name(number), segments=segments)


def table(rows: list[dict[str, Any]]) -> str:
    """The figures for a terminal."""
    lines = []
    for row in rows:
        lines.append(f"{row['name']}, {row['parameters']:,} parameters")
        for form, size in row["bytes"].items():
            lines.append(f"  {form:26}{size:10,}{8 * size / row['parameters']:8.2f} bits a parameter")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Bytes of every form as bars, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(rows), figsize=(5.2 * len(rows), 3.6), layout="constrained")
    for axes, row in zip(panels, rows, strict=True):
        axes.barh(list(row["bytes"]), list(row["bytes"].values()), color="#2f6db5")
        axes.set_xscale("log")
        axes.invert_yaxis()
        axes.set_title(f"{row['name']}, {row['parameters']:,} parameters", fontsize=9)
        axes.set_xlabel("bytes")
    figure.savefig(file, dpi=130)


def main() -> int:
    """Measures, prints, draws, and writes JSON where asked."""
    parser = argparse.ArgumentParser(prog="benchmarks.version_forms", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer examples and steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--plot", type=Path, metavar="FILE", default=Path("version-forms.png"))
    arguments = parser.parse_args()
    from device_runtime.errors import CooperLLMError

    rows: list[dict[str, Any]] = []
    try:
        for model in MODELS:
            bundle, sample = adapted(model, *((4, 32) if arguments.quick else (12, 108)))
            sizes = forms_of(bundle, sample)
            rows.append({"name": model, "parameters": bundle.layout.parameters, "bytes": sizes})
    except CooperLLMError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(rows))
    draw(rows, arguments.plot)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
