"""Writes what the Python device answers on the toy bundle: `python -m tests.golden.make_device [FOLDER]`.

device.json: scalars on hidden states that were kept, segment scores, an evaluation, and what personalising
leaves.
states.json: hidden states through the file that keeps them in half precision. A program's last bits depend on
the CPU: whoever compares bits makes device.json on the same one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from device_runtime.bundle import Bundle
from device_runtime.engine import Engine
from device_runtime.learned import evaluation
from device_runtime.local_update import LocalTask, draw_batch, run_directions
from device_runtime.personal import Practice, personalise
from device_runtime.segment_scores import segment_scores
from device_runtime.state_store import InFile
from protos import federation_pb2 as pb
from tests.device_runtime.toy_bundle import HEAD, open_toy_bundle, toy_examples
from tests.golden.blob import FOLDER, Blob

EPSILON = 0.01
BATCH_SEED = 7
BATCH_EXAMPLES = 11
SEED = 5
COUNT = 4
STEPS = 24
EXAMPLES = 120


def write_states(folder: Path) -> None:
    """Values of every kind, and what is read back of them: a token is divided where it is beyond float16."""
    random = np.random.default_rng(9)
    width = 6
    rows = [
        random.normal(size=width),
        random.normal(size=width) * 2.0 ** random.integers(-30, 15, width),
        [0.0, -0.0, 2.0**-24, 2.0**-25, 1.5 * 2.0**-24, 2.5 * 2.0**-24],  # subnormal halves and their ties
        [1.0 + 2.0**-11, 1.0 + 3 * 2.0**-11, -1.0 - 2.0**-11, 1.0 + 2.0**-10, 2.0**-14, 2.0**-14 - 2.0**-26],
        [65504.0, 65503.9, -65504.0, 32768.0, 1.0, 0.1],
        [65504.004, 1.0, 0.001, 2.0**-20, -3.0, 65503.0],
        [65520.0, 70000.0, -131008.0, 131040.0, 1e-3, 7.0],
        [3.4e38, -1e30, 1e20, 1.0, 0.0, 5e37],
        [np.inf, 1.0, 70000.0, -2.0, 0.5, 1e-8],
        [1e-40, 1e-30, 2.0**-126, 6e-8, 5.9e-8, 3e-8],
    ]
    values = np.array(rows, np.float32)
    with tempfile.TemporaryDirectory() as place:
        file = InFile(len(values), width, Path(place))
        file.write(slice(0, len(values)), values)
        back = file.read(slice(0, len(values)))
        file.close()
    blob = Blob()
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16).view(np.uint16)
    blob.cases.append(
        {"width": width, "values": blob.put(values), "halves": blob.put(halves), "back": blob.put(back)}
    )
    blob.write(folder, "states")


def task(first_segment: int) -> pb.DirectionsTask:
    """Return a task that moves nothing before a segment."""
    step = pb.Step(
        batch_seed=BATCH_SEED,
        batch_examples=BATCH_EXAMPLES,
        directions=[pb.Direction(seed=SEED, count=COUNT, isotropic_scale=1.0)],
    )
    return pb.DirectionsTask(epsilon=EPSILON, active_segments=range(first_segment, HEAD + 1), steps=[step])


def kept(bundle: Bundle, folder: Path, first_segment: int, in_file: bool) -> dict[str, Any]:
    """Return the scalars of a task on states that were kept, and the runs that it took."""
    engine = Engine(bundle, 1, 0, folder) if in_file else Engine(bundle)
    private = engine.private_examples(lambda names: toy_examples(EXAMPLES))
    runs = []
    for _ in range(2):  # the second finds the states
        before = engine.work
        train = private.train_from(first_segment, engine)
        found = run_directions(LocalTask(task(first_segment)), engine, train, lambda: 0.0)
        runs.append(sum(engine.work.since(before).runs))
    private.close()
    return {"first_segment": first_segment, "in_file": in_file, "scalars": found.scalars, "runs": runs}


def learned(bundle: Bundle, segments: str, blob: Blob) -> dict[str, Any]:
    """Return what personalising twice leaves, and what it says."""
    engine = Engine(bundle)
    private = engine.private_examples(lambda names: toy_examples(EXAMPLES))
    practice = Practice(steps=STEPS, directions=COUNT, batch_examples=16, segments=segments)
    first, _ = personalise(engine, private, None, practice)
    last, found = personalise(engine, private, first, practice)
    private.close()
    return {
        "moves": segments,
        "kept": found.kept,
        "losses": [found.loss_before, found.loss_after],
        "held_out_losses": [found.held_out_loss_before, found.held_out_loss_after],
        "personal": blob.put(np.frombuffer(last.to_bytes(), np.int8)),
    }


def write_figures(folder: Path) -> None:
    """Write device.json; its only case has everything."""
    blob = Blob()
    with tempfile.TemporaryDirectory() as place:
        bundle = open_toy_bundle(Path(place) / "bundle")
        engine = Engine(bundle)
        private = engine.private_examples(lambda names: toy_examples(EXAMPLES))
        chosen = draw_batch(BATCH_SEED, 24, len(private.train))
        scores = segment_scores(engine, private.train.batches(chosen))
        measured = evaluation(engine, engine.example_set(toy_examples(EXAMPLES)))
        states = [(first, in_file) for first in range(1, HEAD + 1) for in_file in (False, True)]
        case = {
            "examples": [[example.text, example.label] for example in toy_examples(EXAMPLES)],
            "kept": [kept(bundle, Path(place), *state) for state in states],
            "segment_scores": scores,
            "evaluation": {"loss": measured.loss, "accuracy": measured.accuracy, "count": measured.count},
            "personal": [learned(bundle, segments, blob) for segments in ("head", "all")],
        }
    blob.cases.append(case)
    blob.write(folder, "device")


def main(arguments: list[str]) -> None:
    """Write the files."""
    folder = Path(arguments[0]) if arguments else FOLDER
    write_states(folder)
    write_figures(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
