"""What DTC leaves out, and why: rotation, dither, costed zeros, error feedback; how fast guides change.

    python -m benchmarks.compression_ideas [--quick] [--json FILE]

Each is measured as what is sent is, with the same coder, on the guides of benchmarks/guide_samples.py: the
bytes at a cosine of 0.95 for the first three. Error feedback adds to each guide what the devices did not get
of the ones before it; at equal bytes it is compared by the cosine with the round's own guide, along which
devices measure, and by that of sums over rounds, decayed as momentum does. Last, how often a guide falls
below the floor at the level that the guide before it asks for, as a job with guide_staleness = 0 does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compression import FLOOR, at_floor, coded
from benchmarks.compression_peers import Sent, cosine
from benchmarks.guide_samples import MODELS, Sample, descent
from cloud_service.compression import STEPS, choose, facts_of
from device_runtime.core import kernels

Float64 = NDArray[np.float64]
BLOCK, HEADER_BYTES, MOMENTUM = 1024, 12, 0.9
FEEDBACK = (0.0, 0.5, 0.9, 1.0)
_NEAR, _FIRST_ZONE, _BASE, _A_BIT, _PRIOR = 8, 0.6, 0.54, 0.055, 0.3


def rotated(sample: Sample, step: float) -> Sent:
    """Whole blocks of 1,024 entries through a Hadamard matrix with random signs, there and back."""
    turned = Sample("", tuple(_turn(values.astype(np.float64), back=False) for values in sample.segments))
    size_bytes, received = coded(turned, step)
    ends = np.cumsum([values.size for values in sample.segments])[:-1]
    return size_bytes, np.concatenate([_turn(part, back=True) for part in np.split(received, ends)])


def _turn(values: Float64, back: bool) -> Any:
    whole = values.size // BLOCK * BLOCK
    signs = np.random.default_rng(1).choice([-1.0, 1.0], BLOCK)
    rows = values[:whole].reshape(-1, BLOCK) * (1.0 if back else signs)
    half = 1
    while half < BLOCK:
        pairs = rows.reshape(-1, BLOCK // (2 * half), 2, half)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        rows = np.stack([first + second, first - second], axis=2).reshape(-1, BLOCK)
        half *= 2
    rows = rows / np.sqrt(BLOCK) * (signs if back else 1.0)
    return np.concatenate([rows.reshape(-1), values[whole:]]).astype(np.float32)


def dithered(sample: Sample, step: float) -> Sent:
    """A uniform quantiser with subtractive dither, which makes its error independent of the guide."""
    random, size_bytes, parts = np.random.default_rng(3), 0, []
    for values in sample.segments:
        noise = random.random(values.size) - 0.5
        whole = np.rint(values / (step * sample.rms) + noise)
        size_bytes += HEADER_BYTES + len(kernels.encode_integers(whole.astype(np.int32)))
        parts.append((whole - noise) * step * sample.rms)
    return size_bytes, np.concatenate(parts)


def costed(sample: Sample, step: float) -> Sent:
    """The dead zone wider where an entry stands alone, since such ones cost most bits (rate-distortion
    optimised quantisation: Karczewicz, Ye, Chong 2008).
    """
    size_bytes, parts = 0, []
    for values in sample.segments:
        steps = np.abs(values.astype(np.float64)) / (step * sample.rms)
        plain = np.floor(steps + 1.0 - _FIRST_ZONE)
        near = np.minimum(plain, 3.0)
        window = np.convolve(near, np.ones(2 * _NEAR + 1), "same") - near
        bits = 1.0 - np.log2(np.minimum(1.0, (window + _PRIOR) / (2 * _NEAR + _PRIOR)))
        zone = np.clip(_BASE + _A_BIT * bits, _FIRST_ZONE - 0.05, 1.1)
        whole = np.floor(steps + 1.0 - np.minimum(zone, 0.65))
        whole = np.where(steps < zone, 0.0, np.maximum(whole, 1.0))
        size_bytes += HEADER_BYTES + len(kernels.encode_integers((np.sign(values) * whole).astype(np.int32)))
        received = np.zeros(values.size)
        for number in (1.0, 2.0, 3.0):
            inside = whole == number if number < 3.0 else whole >= number
            if np.any(inside):
                point = float(np.mean(steps[inside] - whole[inside]))
                received[inside] = np.sign(values[inside]) * (whole[inside] + point)
        parts.append(received * step * sample.rms)
    return size_bytes, np.concatenate(parts)


IDEAS = {"as sent": coded, "rotated": rotated, "dithered": dithered, "costed": costed}


def fed_back(
    guides: Sequence[tuple[NDArray[np.float32], ...]], share: float, step: float
) -> dict[str, float]:
    """Rounds whose guide is sent with this share of what was lost before; cosines over the later ones."""
    lost, sampled, received, size_bytes = 0.0, [], [], 0
    ends = np.cumsum([values.size for values in guides[0]])[:-1]
    for guide in guides:
        own = np.concatenate(guide).astype(np.float64)
        asked = own + share * lost
        parts = tuple(part.astype(np.float32) for part in np.split(asked, ends))
        rms = float(np.sqrt(np.mean(own * own)) / np.sqrt(np.mean(asked * asked)))
        sent_bytes, got = coded(Sample("", parts), step * rms)  # the step of the guide alone
        lost, size_bytes = asked - got, size_bytes + sent_bytes
        sampled.append(own)
        received.append(got)
    later = range(len(guides) // 3, len(guides))
    sums = [(_decayed(sampled[: t + 1]), _decayed(received[: t + 1])) for t in later]
    return {
        "bytes": size_bytes / len(guides),
        "own": float(np.mean([cosine(sampled[t], received[t]) for t in later])),
        "sums": float(np.mean([cosine(*pair) for pair in sums])),
    }


def _decayed(vectors: Sequence[Float64]) -> Float64:
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        total = MOMENTUM * total + vector
    return total


def below_floor(guides: Sequence[tuple[NDArray[np.float32], ...]]) -> dict[str, float]:
    """How many guides in a row fall below the floor at the level that the one before asks for."""
    facts = [facts_of(guide, Sample("", guide).rms) for guide in guides]
    idle = [0.0] * len(guides[0])
    got = [now[choose(before, idle, idle, 0.0, FLOOR) - 1].cosine for before, now in pairwise(facts)]
    return {"guides": len(got), "below": sum(reached < FLOOR for reached in got), "least": min(got)}


def measure(guides: Sequence[tuple[NDArray[np.float32], ...]]) -> dict[str, Any]:
    """All figures of a model's guides in a row; those at the floor of the middle one."""
    sample = Sample("", guides[len(guides) // 2])
    return {
        "at_floor": {name: at_floor(sample, send)["bytes"] for name, send in IDEAS.items()},
        "rounds": [
            {"step": step, "share": share, **fed_back(guides, share, step)}
            for step in STEPS[4:]
            for share in FEEDBACK
        ],
        "below_floor": below_floor(guides),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures for a terminal."""
    sizes, below = figures["at_floor"], figures["below_floor"]
    lines = [f"bytes at a cosine of {FLOOR}:"]
    lines += [f"  {name:12}{size:10,}{size / sizes['as sent']:8.2f}" for name, size in sizes.items()]
    lines.append(f"{'step':>6}{'feedback':>10}{'bytes a round':>15}{'cosine: own':>13}{'decayed sums':>14}")
    for row in figures["rounds"]:
        cosines = f"{row['own']:13.4f}{row['sums']:14.4f}"
        lines.append(f"{row['step']:6}{row['share']:10}{row['bytes']:15,.0f}{cosines}")
    lines.append(f"below the floor: {below['below']} of {below['guides']}, the least {below['least']:.4f}")
    return "\n".join(lines)


def main() -> int:
    """Measures, prints, and writes JSON where asked."""
    parser = argparse.ArgumentParser(prog="benchmarks.compression_ideas", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer examples and steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    from device_runtime.errors import CooperLLMError

    figures: dict[str, Any] = {}
    steps, examples = (6, 32) if arguments.quick else (23, 108)
    try:
        for model in MODELS:
            figures[model] = measure(list(descent(model, steps, examples)))
            print(f"{model}\n{table(figures[model])}")
    except CooperLLMError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
