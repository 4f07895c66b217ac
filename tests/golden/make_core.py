"""Writes what the C++ core answers, for other implementations: `python -m tests.golden.make_core [FOLDER]`.

plans.json and local_update.json, the latter over the toy program. With `--bottleneck` before the folder, the
same over the packaged MiniLM with bottlenecks, exported if the cache has no such bundle, and program.json
beside it. A program's last bits depend on the CPU: whoever compares bits makes the figures on the same one.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from device_runtime.core import Batch, Core, Direction, Plan
from device_runtime.zo.grid import round_to_grid
from device_runtime.zo.layout import Layout
from tests.golden import core_cases
from tests.golden.blob import FOLDER, Blob

# The labels of cooperllm/data, so that this bundle is the one that simulations keep in the cache.
CLASSES = "alarm_timer calendar_reminders calls_messages lists_notes media smart_home travel weather"
UPDATE_SEED = 77


def write_plans(folder: Path) -> None:
    """Strings of labels and the segment runs that they take: [position, label, evaluations] depth first, and
    [position, label, from_slot, to_slot, evaluations] level by level, in order.
    """
    random = np.random.default_rng(1)
    rows = [random.integers(-2, 3, (random.integers(1, 12), random.integers(1, 6))) for _ in range(12)]
    for first_active in (0, 2, 4):  # three directions that start at a segment
        plain = np.array([[s * d] * 5 for d in (1, 2, 3) for s in (1, -1)])
        plain[:, :first_active] = 0
        rows.append(plain)
    rows.append(np.array([[i, i, j, j] for i in (1, -1) for j in (2, -2, 3, -3)]))  # FedSPZO
    rows.append(np.array([[1, 2]] * 3))
    blob = Blob()
    for labels in rows:
        labels = labels.astype(np.int32)
        runs = [[run[0], run[1], run[4]] for run in Plan(labels).runs]
        blob.cases.append({"labels": labels.tolist(), "runs": runs, "levels": Plan(labels, True).runs})
    blob.write(folder, "plans")


class Figures:
    """A core over one program with an adapter from a seed, and what it answers."""

    def __init__(self, program: dict[str, Any], path: Path) -> None:
        self.program = program
        rows = [(t["name"], t["segment"], t["shape"], t["exponent"]) for t in program["layout"]]
        self.layout = Layout.build(rows)
        tensors = [(t.segment, t.offset, t.count, t.exponent, list(t.shape)) for t in self.layout.tensors]
        names = ("segments", "batch_examples", "max_tokens", "hidden_size")
        self.core = Core(program_path=str(path), layout=tensors, **{name: program[name] for name in names})
        random = np.random.default_rng(3)
        values = random.normal(
            scale=0.3 if self.layout.parameters < 1000 else 0.02, size=self.layout.parameters
        )
        self.adapter = np.zeros(self.layout.parameters, np.float32)
        for tensor in self.layout.tensors:
            self.adapter[tensor.span] = round_to_grid(values[tensor.span], tensor.exponent)
        self.scale = random.uniform(0.5, 2.0, self.layout.parameters).astype(np.float32)
        wide = random.normal(scale=0.05, size=self.layout.parameters).astype(np.float32)
        narrow = wide[self.layout.segment_slice(1)][::-1].copy()
        self.guides = [{s: wide[self.layout.segment_slice(s)] for s in self.layout.segments}, {1: narrow}]

    def cases(self) -> list[dict[str, Any]]:
        """Return what is asked of this program."""
        branches = bool(self.core.auxiliary_segments)
        return core_cases.cases(self.program, branches, self.core.has_head_gradient)

    def answer(self, case: dict[str, Any], batches: list[core_cases.Arrays]) -> dict[str, Any]:
        """Return the core's answers; arrays where they are arrays."""
        core, scale = self.core, self.scale if case["scale"] else None
        core.adapter[:] = self.adapter
        core.set_scale(scale)
        core.clear_guides()
        for index, guide in enumerate(self.guides if case["guides"] else []):
            for segment, values in guide.items():
                core.set_guide(index, segment, values)
        given = [self._batch(batch, case["first_segment"]) for batch in batches]
        asked = [Direction(**{**d, "guides": [tuple(g) for g in d["guides"]]}) for d in case["directions"]]
        core.reset_counters()
        ends = case["exit_segment"], case["global_weight"]
        every = list(range(self.program["segments"] + 1))
        found: dict[str, Any] = {}
        if case["exact"]:
            found["rho"] = core.slopes(given, asked, case["epsilon"], case["exit_segment"])
        else:
            measured = core.measure(given, asked, case["epsilon"], every, *ends)
            found |= {"rho": measured.rho, "loss_plus": measured.loss_plus, "loss_minus": measured.loss_minus}
        counters = core.counters
        found |= {"embed_runs": counters.embed_runs, "segment_runs": list(counters.segment_runs)}
        found["auxiliary_runs"] = list(counters.auxiliary_runs)
        evaluation = core.evaluate(given, *ends)
        found |= {"loss_sum": evaluation[0], "count": evaluation[1], "correct": evaluation[2]}
        if case["update"]:
            found["coefficients"] = [0.01 * (d + 1) * (-1) ** d for d in range(len(asked))]
            found["clamped"] = core.update(
                case["epsilon"], UPDATE_SEED, every, asked, found["coefficients"], []
            )
            found["adapter_after"] = core.adapter.copy()
        return found

    def _batch(self, arrays: core_cases.Arrays, first_segment: int) -> Batch:
        cells = [arrays[n].reshape(len(arrays["weights"]), -1) for n in ("input_ids", "attention_mask")]
        wide = [array.astype(np.int64) for array in (*cells, arrays["labels"])]
        batch = Batch(*wide, arrays["weights"])
        if not first_segment:
            return batch
        return Batch(*wide, arrays["weights"], self.core.hidden(batch, first_segment), first_segment)


def write_figures(figures: Figures, folder: Path) -> None:
    """Write local_update.json: each case with what it is asked and the core's answers."""
    blob = Blob()
    program = figures.program
    shared = {"adapter": blob.put(figures.adapter), "scale": blob.put(figures.scale)}
    shared["guides"] = [
        [{"segment": segment, "values": blob.put(values)} for segment, values in guide.items()]
        for guide in figures.guides
    ]
    block = program["pad_to_multiple_tokens"]
    batches = [core_cases.batch(program, 1, block), core_cases.batch(program, 2, 2 * block)]
    references = [
        {"tokens": batch["input_ids"].shape[1]} | {name: blob.put(array) for name, array in batch.items()}
        for batch in batches
    ]
    for case in figures.cases():
        count = case["batches"]
        found = figures.answer(case, batches[:count])
        found = {n: blob.put(v) if isinstance(v, np.ndarray) else v for n, v in found.items()}
        asked = [
            {**d, "seed": hex(d["seed"]), "prefix_seed": hex(d["prefix_seed"])} for d in case["directions"]
        ]
        written = {
            **case,
            "directions": asked,
            "batches": references[:count],
            "update_seed": hex(UPDATE_SEED),
        }
        written |= {"adapter": shared["adapter"], "scale": shared["scale"] if case["scale"] else None}
        written["guides"] = shared["guides"] if case["guides"] else []
        blob.cases.append({**written, **found})
    blob.write(folder, "local_update")


def toy() -> Figures:
    """Return the toy program."""
    return Figures(json.loads((FOLDER / "toy.json").read_text()), FOLDER / "toy.pte")


def bottleneck() -> tuple[Figures, Path]:
    """Return MiniLM with bottlenecks, and where its program lies."""
    from cooperllm.simulate.model_cache import exported_bundle
    from device_runtime.bundle import Bundle

    bundle = Bundle.open(exported_bundle("", CLASSES.split(), "bottleneck")[0])
    chain, text = bundle.manifest.chain, bundle.manifest.text
    program: dict[str, Any] = {
        "segments": chain.segments,
        "batch_examples": chain.batch_examples,
        "max_tokens": text.max_tokens,
        "pad_to_multiple_tokens": text.pad_to_multiple_tokens,
        "hidden_size": chain.hidden_size,
        "vocabulary": 1000,  # ids that every vocabulary has
        "classes": len(bundle.manifest.task.class_names),
        "layout": [asdict(tensor) for tensor in bundle.layout.tensors],
    }
    return Figures(program, bundle.program_path), bundle.program_path


def main(arguments: list[str]) -> None:
    """Write the files."""
    if arguments[:1] == ["--bottleneck"]:
        folder = Path(arguments[1])
        figures, path = bottleneck()
        (folder / "program.json").write_text(json.dumps({**figures.program, "program": str(path)}))
        write_figures(figures, folder)
        return
    folder = Path(arguments[0]) if arguments else FOLDER
    write_plans(folder)
    write_figures(toy(), folder)


if __name__ == "__main__":
    main(sys.argv[1:])
