"""DTC on real guides: bytes and alignment beside other codes and the bound, and how fast it goes.

    python -m benchmarks.compression [--quick] [--json FILE] [--plot FILE]

Guides are public gradients by back-propagation (benchmarks/guide_samples.py; the first run exports its two
models and keeps them in the user's cache). Every level of compression is a point of the curve of cosine
against bytes a parameter, headers included; beside it the Gaussian rate-distortion bound, D = 2^(-2R) and so
cosine = sqrt(1 - D), which real guides may cross because their energy is uneven. Speed is that of one core
and the C++ kernels, in MB (10^6 bytes) of encoded bytes and of the float32 values a second. Goals: a cosine
of 0.95 at 0.25 byte a parameter or less, also counted in parameters that are not zero; decoding faster than a
link of 100 Mbit/s brings the bytes, at every level.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compression_peers import PEERS, Sent, cosine
from benchmarks.guide_samples import Sample, samples
from cloud_service.compression import LEVELS, STEPS, encode
from device_runtime.core import kernels

FLOOR, MOST_BYTES_A_PARAMETER, LINK_MB_S = 0.95, 0.25, 12.5
_SEARCH_STEPS = 14


def at_level(sample: Sample, level: int, turns: int) -> dict[str, Any]:
    """A point of the curve, and the least times of encoding and decoding all segments."""
    encoded = [encode(values, sample.rms, level) for values in sample.segments]
    pairs = [(data, values.size) for data, values in zip(encoded, sample.segments, strict=True)]
    sent = [kernels.decode_guide(*pair) for pair in pairs]
    size_bytes = sum(len(data) for data in encoded)
    encode_s = _least_s(lambda: [encode(values, sample.rms, level) for values in sample.segments], turns)
    decode_s = _least_s(lambda: [kernels.decode_guide(*pair) for pair in pairs], turns)
    return {
        "level": level, "step": STEPS[level - 1], "bytes": size_bytes,
        "segment_bytes": [len(data) for data in encoded],
        "cosine": cosine(sample.whole, np.concatenate(sent)),
        "encode_mb_s": size_bytes / encode_s / 1e6, "decode_mb_s": size_bytes / decode_s / 1e6,
        "encode_float32_mb_s": 4 * sample.count / encode_s / 1e6,
        "decode_float32_mb_s": 4 * sample.count / decode_s / 1e6,
    }  # fmt: skip


def _least_s(work: Callable[[], object], turns: int) -> float:
    times = []
    for _ in range(turns):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def coded(sample: Sample, step: float) -> Sent:
    """A guide as devices get it; `step` in its root mean squares."""
    encoded = [kernels.encode_guide(values, step * sample.rms) for values in sample.segments]
    sent = [kernels.decode_guide(d, v.size) for d, v in zip(encoded, sample.segments, strict=True)]
    return sum(len(data) for data in encoded), np.concatenate(sent).astype(np.float64)


def at_floor(sample: Sample, send: Callable[[Sample, float], Sent] = coded) -> dict[str, Any]:
    """The fewest bytes with a cosine of FLOOR, by halving the interval of steps."""
    fine, coarse, found = 0.01, 20.0, (0, 0.0)
    for _ in range(_SEARCH_STEPS):
        step = float(np.sqrt(fine * coarse))
        size_bytes, received = send(sample, step)
        reached = cosine(sample.whole, received)
        if reached >= FLOOR:
            fine, found = step, (size_bytes, reached)
        else:
            coarse = step
    return {"step": fine, "bytes": found[0], "cosine": found[1]}


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row a sample: the curve, the point at the floor, what the peers do."""
    rows = []
    for sample in samples(quick):
        peers = {}
        for name, send in PEERS.items():
            size_bytes, received = send(sample.segments)
            peers[name] = {"bytes": size_bytes, "cosine": cosine(sample.whole, received)}
        rows.append({
            "name": sample.name, "parameters": sample.count, "non_zero": sample.non_zero,
            "levels": [at_level(sample, level, 3 if quick else 20) for level in LEVELS],
            "at_floor": at_floor(sample), "peers": peers,
        })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The figures for a terminal, and what became of the goals."""
    lines, most, slowest = [], 0.0, float("inf")
    for row in rows:
        count, floor = row["parameters"], row["at_floor"]
        lines += [f"{row['name']}: {count:,} parameters, {row['non_zero'] / count:.0%} not zero", ""]
        lines.append(f"{'':18}{'bytes':>9}{'a param.':>10}{'bits':>8}{'cosine':>9}{'bound':>9}"
                     f"{'encode':>10}{'decode MB/s':>13}{'(float32)':>16}")  # fmt: skip
        for point in row["levels"]:
            speeds = f"{point['encode_mb_s']:10.1f}{point['decode_mb_s']:13.1f}"
            wide = f"({point['encode_float32_mb_s']:.0f}, {point['decode_float32_mb_s']:.0f})"
            named = f"level {point['level']}"
            lines.append(f"{_line(named, point, count)}{speeds}{wide:>16}")
            slowest = min(slowest, point["decode_mb_s"])
        lines += [_line(name, point, count) for name, point in row["peers"].items()]
        a_parameter, non_zero = floor["bytes"] / count, floor["bytes"] / row["non_zero"]
        most = max(most, non_zero)
        lines += [
            "",
            f"cosine {floor['cosine']:.3f} at {floor['bytes']:,} bytes: {a_parameter:.4f} a parameter, "
            f"{non_zero:.4f} a non-zero one, {4 * count / floor['bytes']:.0f} times fewer than float32",
            "",
        ]
    verdicts = ["met" if met else "MISSED" for met in (most <= MOST_BYTES_A_PARAMETER, slowest > LINK_MB_S)]
    lines += [
        f"cosine {FLOOR} at {most:.4f} byte a non-zero parameter or less (goal: {MOST_BYTES_A_PARAMETER}, "
        f"{verdicts[0]})",
        f"slowest decoding: {slowest:.1f} MB/s of encoded bytes (goal: above {LINK_MB_S}, {verdicts[1]})",
    ]
    return "\n".join(lines)


def bound(bytes_a_parameter: float) -> float:
    """The cosine that no code of independent normal entries exceeds at this rate."""
    return float(np.sqrt(1.0 - 2.0 ** (-16.0 * bytes_a_parameter)))


def _line(name: str, point: dict[str, Any], count: int) -> str:
    rate = point["bytes"] / count
    return f"{name:18}{point['bytes']:9,}{rate:10.4f}{8 * rate:8.3f}{point['cosine']:9.4f}{bound(rate):9.4f}"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Cosine against bytes a parameter: a panel for each trained guide."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if "after" in row["name"]]
    figure, panels = pyplot.subplots(1, len(shown), figsize=(4.2 * len(shown), 4.0), sharey=True)
    rates = np.geomspace(1e-3, 5.0, 200)
    for axes, row in zip(panels, shown, strict=True):
        count = row["parameters"]
        axes.plot(
            rates, [bound(rate) for rate in rates], "--", color="#8c959f", label="bound, normal entries"
        )
        curve = [(point["bytes"] / count, point["cosine"]) for point in row["levels"]]
        axes.plot(*zip(*curve, strict=True), "o-", color="#0969da", label="CooperLLM's levels")
        for index, (name, point) in enumerate(row["peers"].items()):
            axes.plot(point["bytes"] / count, point["cosine"], "sv^D<>XPh"[index % 9], label=name)
        axes.axhline(FLOOR, color="#cf222e", linewidth=0.8)
        axes.axvline(MOST_BYTES_A_PARAMETER, color="#cf222e", linewidth=0.8)
        axes.set(xscale="log", ylim=(0.4, 1.01), title=row["name"], xlabel="bytes a parameter")
    panels[0].set_ylabel("cosine with the guide as sampled (red: goals)")
    panels[-1].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> int:
    """Measures, prints, plots, and writes JSON where asked."""
    parser = argparse.ArgumentParser(prog="benchmarks.compression", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer examples, steps and turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--plot", type=Path, default=Path("runs/compression.png"), metavar="FILE",
                        help="default: runs/compression.png")  # fmt: skip
    arguments = parser.parse_args()
    from device_runtime.errors import CooperLLMError

    try:
        rows = measure(arguments.quick)
    except CooperLLMError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(rows))
    plot(rows, arguments.plot)
    print(f"plot: {arguments.plot}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
