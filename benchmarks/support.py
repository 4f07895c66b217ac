"""Which families, tasks, adapter kinds and precisions work together: exports each, runs it, writes the table.

    python -m benchmarks.support [--only TEXT] [--missing] [--check]

Every combination is a tiny random-weight model of the real architecture. It works when it exports, runs in
the C++ core on real text, and its loss is the torch model's (in fp32; a quantised one must be finite). What
comes out stands in docs/support.json; docs/support.md is written from that, between its markers. With --only,
combinations whose name holds TEXT are tried again and the others kept; --missing tries those that never were;
--check says whether both files are of the combinations that are declared now, and exports nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.support_page import RESULTS, outdated, write_page
from benchmarks.tiny_models import MODELS, save_tiny
from device_runtime.bundle import PRECISIONS
from export.adapters.kinds import KINDS as ADAPTERS
from export.families import is_causal
from export.tasks.entry import KINDS as TASKS

# All adapter kinds and precisions are tried on one encoder and one decoder; families differ in other things.
ENCODER, DECODER = "bert", "llama"
TOLERANCE = 1e-3  # of the loss, relative to 1 + loss
TEXTS = (("the red apple", "red"), ("grass", "green"), ("a whale in the sea under a wide blue sky", "blue"))


@dataclass(frozen=True)
class Combination:
    """What is tried: a model of benchmarks/tiny_models.py, a task, an adapter kind and a precision."""

    model: str
    task: str = TASKS[0]
    adapter: str = "lora"
    precision: str = "fp32"

    @property
    def name(self) -> str:
        """For --only and for people."""
        return f"{self.model}/{self.task}/{self.adapter}/{self.precision}"


def declared() -> list[Combination]:
    """Families × tasks with LoRA in fp32; then every adapter kind, and every precision, on two of them.

    A masked language model is no causal one: that task is left out there.
    """
    pairs = ((model, task) for model in MODELS for task in TASKS)
    found = [Combination(*pair) for pair in pairs if pair[1] != "causal_lm" or is_causal(MODELS[pair[0]][0])]
    for model in (ENCODER, DECODER):
        found += [Combination(model, adapter=adapter) for adapter in ADAPTERS]
        found += [Combination(model, precision=precision) for precision in PRECISIONS]
    return list(dict.fromkeys(found))


def tried(combination: Combination, folder: Path) -> dict[str, Any]:
    """Exports and runs one combination; its row of the results. `problem` is "" or one line."""
    from device_runtime.errors import CooperLLMError

    began = time.monotonic()
    row: dict[str, Any] = {**asdict(combination), "family": MODELS[combination.model][0], "problem": ""}
    try:
        row |= _run(combination, folder)
    except CooperLLMError as error:
        row["problem"] = str(error).replace(str(folder), "…")
    except Exception as error:  # anything else is a defect, and must be seen in the table, not end it
        row["problem"] = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    row["seconds"] = round(time.monotonic() - began, 1)
    return row


def _run(combination: Combination, folder: Path) -> dict[str, Any]:
    from device_runtime.engine import Engine
    from device_runtime.examples import Example
    from export.model import build
    from export.writer import Options, write_bundle

    language_model = combination.task != "sequence_classification"
    source = save_tiny(combination.model, folder / "model", language_model=language_model)
    class_names = () if combination.task == "causal_lm" else ("red", "green", "blue")
    options = Options(
        class_names=class_names, model=str(source), task=combination.task, rank=4,
        adapter=combination.adapter, precision=combination.precision, max_tokens=32, batch_examples=4,
        segments=1,
    )  # fmt: skip
    bundle = write_bundle(options, folder / "bundle")
    engine = Engine(bundle)
    examples = engine.example_set([Example(text, label) for text, label in TEXTS])
    batches = examples.batches(range(len(TEXTS)))
    batch: Any = batches[0]
    total, count, _ = engine.evaluate(batches)
    model = build(bundle.manifest, str(source))
    model.load_adapter(bundle.adapter)
    wanted = float(model.loss(batch).detach())
    apart = abs(total / count - wanted) / (1 + abs(wanted))
    if not math.isfinite(apart) or (combination.precision == "fp32" and apart > TOLERANCE):
        raise ValueError(f"the program's loss is {total / count:.5g}, the torch model's {wanted:.5g}")
    outside = {name for method in bundle.manifest.chain.methods for name in method.undelegated_operators}
    return {
        "loss_apart": float(f"{apart:.2g}"),
        "program_bytes": bundle.program_path.stat().st_size,
        "outside": sorted(outside),
        "made_by": bundle.manifest.created_by,
    }


def main() -> int:
    """Tries what is asked for, and rewrites the results and the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.support", description=__doc__.split("\n")[0])
    parser.add_argument("--only", metavar="TEXT", help="only combinations whose name holds it")
    parser.add_argument("--missing", action="store_true", help="only combinations that were never tried")
    parser.add_argument("--check", action="store_true", help="say whether the page is of what is declared")
    arguments = parser.parse_args()
    combinations = declared()
    if arguments.check:
        problems = outdated([asdict(combination) for combination in combinations])
        print(
            "\n".join(problems) or "docs/support.md is current", file=sys.stderr if problems else sys.stdout
        )
        return int(bool(problems))
    import torch

    torch.set_num_threads(1)
    kept = {} if not RESULTS.exists() else {_key(row): row for row in json.loads(RESULTS.read_text())["rows"]}
    for combination in combinations:
        there = _key(asdict(combination)) in kept
        if (arguments.only and arguments.only not in combination.name) or (arguments.missing and there):
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = tried(combination, Path(folder))
        kept[_key(asdict(combination))] = row
        print(f"{row['seconds']:6.1f} s  {combination.name}: {row['problem'] or 'works'}", flush=True)
        write_page([kept[_key(asdict(c))] for c in combinations if _key(asdict(c)) in kept])
    return 0


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[part]) for part in ("model", "task", "adapter", "precision"))


if __name__ == "__main__":
    sys.exit(main())
