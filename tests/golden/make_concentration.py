"""Writes where the Python device says directions lie: `python -m tests.golden.make_concentration [FOLDER]`.

Every case is a task's directions, a scale and guides over one layout, and the scalars that they count as, or
the status of the refusal: a case or more for every rule, and some drawn at random.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.concentration import Supplies, weigh
from device_runtime.errors import TaskRefused
from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb
from tests.golden.blob import FOLDER, Blob

HEAD = 3
SHAPES = ((0, 600), (1, 96), (2, 64), (HEAD, 8), (HEAD, 120))
RANDOM_CASES = 60
LAYOUT = Layout.build([(f"t{i}", segment, (count,), 20) for i, (segment, count) in enumerate(SHAPES)])
SPANS = {segment: LAYOUT.segment_slice(segment) for segment in range(HEAD + 1)}
Float32 = NDArray[np.float32]


def vectors() -> dict[str, Float32]:
    """Return scales (s...) and guides (g...) by name."""
    random, count = np.random.default_rng(21), LAYOUT.parameters
    made: dict[str, NDArray[Any]] = {"g0": random.normal(size=count), "g1": random.normal(size=count)}
    made["g2"] = np.where(np.arange(count) == SPANS[HEAD].start, 100.0, 0.0)  # one bias
    made["g3"] = np.where(np.arange(count) >= SPANS[HEAD].start, random.normal(size=count), 0.0)
    made["g4"] = made["g0"] + np.where(np.arange(count) == 700, 1.0, 0.0)
    made["g5"] = np.sign(random.normal(size=count))  # cancels noise of magnitude 1
    made["g6"] = random.normal(size=count) * (random.random(count) < 0.02)
    made["g7"] = np.full(count, 1e30)
    made["s0"] = np.ones(count)
    for number, spread in enumerate((0.1, 0.7, 1.3, 2.0, 4.0), 1):
        made[f"s{number}"] = np.exp(random.normal(scale=spread, size=count))
    made["s6"] = np.where(np.arange(count) < SPANS[HEAD].start, 1e-6, 1.0)
    made["s7"] = np.where(np.arange(count) < SPANS[HEAD].start, 0.41, 1.0)  # 760 * 0.41^2 = 127.8 against 128
    made["s8"] = np.where(np.arange(count) < SPANS[HEAD].start, 0.4105, 1.0)
    made["s9"] = np.where(np.arange(count) == SPANS[HEAD].start, 40.0, 1.0)
    return {name: values.astype(np.float32) for name, values in made.items()}


def direction(**changes: Any) -> dict[str, Any]:
    """Return a direction's fields; guides are [name, coefficient]."""
    plain = {"seed": 1, "count": 10, "isotropic_scale": 1.0, "guides": [], "active_segments": []}
    return plain | {"boundary": 0, "exact": False} | changes


def chosen() -> list[dict[str, Any]]:
    """Return a case for every rule."""
    top = 2**64 - 1
    cases: list[tuple[str, list[dict[str, Any]]]] = [
        ("", [direction()]),
        ("", [direction(active_segments=[HEAD])]),
        ("", [direction(count=5), direction(count=3, seed=9, active_segments=[HEAD])]),
        *((scale, [direction()]) for scale in ("s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9")),
        *(("", [direction(guides=[[f"g{guide}", 1.0]])]) for guide in range(8)),
        *(("", [direction(guides=[[f"g{guide}", 0.5]], isotropic_scale=0.0)]) for guide in (0, 2, 3, 6)),
        *(("", [direction(guides=[["g3", size]])]) for size in (1.5, 2.0, 2.5, 6.0)),
        ("", [direction(guides=[["g5", 1.0]])]),
        ("", [direction(guides=[["g0", 1.0], ["g0", -1.0]], isotropic_scale=0.0)]),
        ("s9", [direction(active_segments=[HEAD], exact=True, count=1)]),
        ("", [direction(active_segments=[HEAD], exact=True, count=2)]),
        *(("", [direction(boundary=boundary)]) for boundary in (1, 2, HEAD)),
        ("", [direction(), direction()]),
        ("", [direction(), direction(seed=10, count=1, active_segments=[0, 1, 2])]),
        ("", [direction(), direction(seed=11, count=1, active_segments=[0, 1, 2])]),
        ("", [direction(seed=top, count=1, isotropic_scale=0.5), direction(seed=top - 9, count=12)]),
        ("", [direction(count=1, isotropic_scale=0.0, guides=[[name, 1.0]]) for name in ("g0", "g4")]),
        ("", [direction(seed=20 * i, guides=[[name, 1.0]]) for i, name in enumerate(("g0", "g1"))]),
        ("s7", [direction(isotropic_scale=1e200)]),
        ("", [direction(isotropic_scale=1e308, guides=[["g7", 1e308]])]),
        ("", [direction(isotropic_scale=0.0)]),
    ]
    return [{"scale": scale, "directions": directions} for scale, directions in cases]


def drawn() -> list[dict[str, Any]]:
    """Return cases at random."""
    random = np.random.default_rng(33)
    names = [f"g{i}" for i in (0, 1, 3, 4, 5, 6)]
    cases = []
    for _ in range(RANDOM_CASES):
        directions = []
        for number in range(random.integers(1, 4)):
            guides = [
                [str(random.choice(names)), float(np.round(random.normal(scale=2.0), 3))]
                for _ in range(random.integers(0, 3))
            ]
            active = sorted(random.choice(HEAD + 1, random.integers(1, HEAD + 2), replace=False).tolist())
            directions.append(
                direction(
                    seed=int(100 * number if random.random() < 0.8 else 5),
                    count=int(random.integers(1, 12)),
                    isotropic_scale=float(random.choice([0.0, 0.3, 1.0, 1.0, -1.0, 3.0])),
                    guides=guides,
                    active_segments=active if random.random() < 0.5 else [],
                    boundary=int(random.choice([0, 0, 0, 1, 2])),
                )
            )
        scale = "" if random.random() < 0.4 else f"s{random.integers(0, 10)}"
        cases.append({"scale": scale, "directions": directions})
    return cases


def answer(case: dict[str, Any], values: dict[str, Float32]) -> dict[str, Any]:
    """Return the scalars that a case counts as, or the status of its refusal."""
    directions = []
    used: set[str] = set()
    for fields in case["directions"]:
        message = pb.Direction(**{name: value for name, value in fields.items() if name != "guides"})
        for name, coefficient in fields["guides"]:
            used.add(name)
            message.guides.add(guide_sha256=name.encode() * 16, coefficient=coefficient)
        directions.append(message)
    step = pb.Step(batch_examples=8, directions=directions)
    task = pb.DirectionsTask(epsilon=0.01, active_segments=range(HEAD + 1), steps=[step])
    guides = {name.encode() * 16: {s: values[name][span] for s, span in SPANS.items()} for name in used}
    try:
        found = weigh(task, Supplies(values.get(case["scale"]), guides), SPANS, HEAD)
    except TaskRefused as refusal:
        return {"status": refusal.status}
    return {"status": "OK", "scalars": found.scalars, "head_scalars": found.head_scalars}


def main(arguments: list[str]) -> None:
    """Write the files; the first case holds the vectors."""
    values, blob = vectors(), Blob()
    blob.cases.append({"shapes": SHAPES, "vectors": {name: blob.put(data) for name, data in values.items()}})
    for case in chosen() + drawn():
        seeds = [{**fields, "seed": hex(fields["seed"])} for fields in case["directions"]]
        blob.cases.append({**case, "directions": seeds, **answer(case, values)})
    blob.write(Path(arguments[0]) if arguments else FOLDER, "concentration")


if __name__ == "__main__":
    main(sys.argv[1:])
