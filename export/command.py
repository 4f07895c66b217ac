"""`cooperllm export`."""

from __future__ import annotations

import argparse
import sys
import time
from importlib.resources import files
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cooperllm export`."""
    add = parser.add_argument
    add(
        "--model", metavar="ID_OR_PATH", help="Hugging Face id or model folder (default: the packaged MiniLM)"
    )
    add("--revision", default="", help="revision of a Hugging Face id")
    add("--classes", default="", metavar="A,B,…", help="the class names, in the order of their numbers")
    add("--out", required=True, metavar="FOLDER", help="the bundle's folder; it must not exist yet")
    add(
        "--pooling",
        choices=("mean", "cls", "last"),
        default="",
        help="how hidden states become one (default: mean; last for causal models)",
    )
    add(
        "--task",
        default="sequence_classification",
        metavar="KIND",
        help="sequence_classification (default), label_words or causal_lm",
    )
    add(
        "--template",
        default="",
        metavar="TEXT",
        help="around {text} in label_words and causal_lm; with {mask} for label words of a masked model",
    )
    add(
        "--label-words",
        default="",
        metavar="A,B,…",
        help="a word of one token for each class, in their order (default: the class names)",
    )
    add(
        "--adapter",
        default="lora",
        metavar="KIND",
        help="what is trained: lora (default), lora_fa, bottleneck, bitfit, prefix, head or full",
    )
    add("--adapter-from", default="", metavar="PATH", help="start from a PEFT adapter's folder, or from ours")
    add("--rank", type=int, default=8, help="LoRA's r (default: 8)")
    add("--lora-alpha", type=float, default=16.0, help="LoRA's lora_alpha (default: 16)")
    add(
        "--target-modules",
        default="auto",
        metavar="A,B,…",
        help="modules with a LoRA or a bottleneck, all-linear, or auto: the family's usual (default: auto)",
    )
    add("--bottleneck", type=int, default=16, metavar="SIZE", help="a bottleneck's width (default: 16)")
    add("--prefix-tokens", type=int, default=8, help="a prefix's length in every layer (default: 8)")
    add(
        "--segments",
        type=_segments,
        metavar="K|A,B,…",
        help="number of segments, or how many layers each holds (default: one a layer)",
    )
    add(
        "--batch-examples", type=int, default=8, help="examples in a batch, fixed in the program (default: 8)"
    )
    add("--max-tokens", type=int, default=128, help="longer texts are truncated (default: 128)")
    add(
        "--pad-to-multiple-tokens",
        type=int,
        default=8,
        help="a batch's length is rounded up to it (default: 8)",
    )
    add(
        "--precision",
        choices=("auto", "fp32", "int8", "int4"),
        default="auto",
        help="of the frozen weights; auto: the fastest whose projected gradients are true (default: auto)",
    )
    add(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="examples on which that is measured (default: embedded requests to a phone)",
    )
    add(
        "--fidelity-directions",
        type=int,
        default=64,
        metavar="N",
        help="directions on which it is measured; 0 for not at all (default: 64)",
    )
    add(
        "--both-signs",
        action="store_true",
        help="with methods that run both signs of a direction in one forward, for short batches",
    )
    add("--seed", type=int, default=0, help="of the adapter's initial values (default: 0)")


def _segments(text: str) -> int | tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split(","))
    return sizes if len(sizes) > 1 else sizes[0]


def run(args: argparse.Namespace) -> int:
    """Exports a bundle and prints its folder and name."""
    from export.source import DEFAULT_MODEL
    from export.writer import Options, write_bundle

    options = Options(
        class_names=tuple(name.strip() for name in args.classes.split(",")) if args.classes else (),
        model=args.model or DEFAULT_MODEL,
        revision=args.revision,
        task=args.task,
        pooling=args.pooling,
        template=args.template,
        label_words=tuple(word.strip() for word in args.label_words.split(",") if word.strip()),
        adapter=args.adapter,
        adapter_from=args.adapter_from,
        rank=args.rank,
        lora_alpha=args.lora_alpha,
        target_modules=tuple(name.strip() for name in args.target_modules.split(",")),
        bottleneck=args.bottleneck,
        prefix_tokens=args.prefix_tokens,
        segments=args.segments,
        batch_examples=args.batch_examples,
        max_tokens=args.max_tokens,
        pad_to_multiple_tokens=args.pad_to_multiple_tokens,
        seed=args.seed,
        both_signs=args.both_signs,
        precision=args.precision,
        calibration=args.calibration or Path(str(files("cooperllm") / "data" / "public.tsv")),
        fidelity_directions=args.fidelity_directions,
    )
    steps = _Steps()
    notes: list[str] = []
    try:
        bundle = write_bundle(options, args.out, steps.show, notes.append)
    finally:
        steps.end()
    for line in notes:
        print(line)
    print(f"{bundle.folder}: {bundle.layout.parameters:,} adapter parameters, sha256 {bundle.sha256}")
    return 0


class _Steps:
    """Says on stderr what is being done: in place on a terminal, a line each elsewhere."""

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._started_s = time.monotonic()
        self._terminal = self._stream.isatty()

    def show(self, step: str) -> None:
        """Replaces the current step by another."""
        line = f"{time.monotonic() - self._started_s:5.1f} s  {step}"
        self._stream.write(f"\r\033[K{line}" if self._terminal else f"{line}\n")
        self._stream.flush()

    def end(self) -> None:
        """Clears the line."""
        if self._terminal:
            self._stream.write("\r\033[K")
            self._stream.flush()
