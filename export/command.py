"""`cooperllm export` and `cooperllm inspect`. Inspecting needs neither torch nor executorch."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from device_runtime.bundle import Bundle, manifest_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cooperllm export`."""
    add = parser.add_argument
    add(
        "--model", metavar="ID_OR_PATH", help="Hugging Face id or model folder (default: the packaged MiniLM)"
    )
    add("--revision", default="", help="revision of a Hugging Face id")
    add("--classes", required=True, metavar="A,B,…", help="the class names, in the order of their numbers")
    add("--out", required=True, metavar="FOLDER", help="the bundle's folder; it must not exist yet")
    add(
        "--pooling",
        choices=("mean", "cls"),
        default="mean",
        help="how hidden states become one (default: mean)",
    )
    add("--rank", type=int, default=8, help="LoRA's r (default: 8)")
    add("--lora-alpha", type=float, default=16.0, help="LoRA's lora_alpha (default: 16)")
    add(
        "--target-modules",
        default="query,value",
        metavar="A,B,…",
        help="modules with a LoRA (default: query,value)",
    )
    add("--segments", type=int, metavar="K", help="number of segments (default: one a layer)")
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
    add("--seed", type=int, default=0, help="of the adapter's initial values (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Exports a bundle and prints its folder and name."""
    from export.source import DEFAULT_MODEL
    from export.writer import Options, write_bundle

    options = Options(
        class_names=tuple(name.strip() for name in args.classes.split(",")),
        model=args.model or DEFAULT_MODEL,
        revision=args.revision,
        pooling=args.pooling,
        rank=args.rank,
        lora_alpha=args.lora_alpha,
        target_modules=tuple(name.strip() for name in args.target_modules.split(",")),
        segments=args.segments,
        batch_examples=args.batch_examples,
        max_tokens=args.max_tokens,
        pad_to_multiple_tokens=args.pad_to_multiple_tokens,
        seed=args.seed,
    )
    steps = _Steps()
    try:
        bundle = write_bundle(options, args.out, steps.show)
    finally:
        steps.end()
    print(f"{bundle.folder}: {bundle.layout.parameters:,} adapter parameters, sha256 {bundle.sha256}")
    return 0


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cooperllm inspect`."""
    parser.add_argument("bundle", metavar="BUNDLE", help="the bundle's folder")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to print it (default: text)"
    )


def run_inspect(args: argparse.Namespace) -> int:
    """Checks a bundle as a device would, and prints what is in it."""
    bundle = Bundle.open(args.bundle)
    if args.format == "json":
        fields: dict[str, Any] = json.loads(manifest_json(bundle.manifest))
        print(json.dumps({"sha256": bundle.sha256, **fields}, indent=1, ensure_ascii=False))
    else:
        print("\n".join(describe(bundle)))
    return 0


def describe(bundle: Bundle) -> list[str]:
    """The bundle as lines for a terminal."""
    manifest = bundle.manifest
    task, text, kind, chain = manifest.task, manifest.text, manifest.adapter, manifest.chain
    weights = f"{manifest.source.model} (weights sha256 {manifest.source.weights_sha256})"
    lines = [
        f"bundle     {bundle.sha256}",
        f"made by    {manifest.created_by}",
        f"source     {weights}",
        f"family     {manifest.family}, {manifest.precision}, hidden size {chain.hidden_size}",
        f"task       {task.kind}, {task.pooling} pooling, {len(task.class_names)} classes: "
        + ", ".join(task.class_names),
        f"adapter    {kind.kind}, r {kind.r}, lora_alpha {kind.lora_alpha:g}, "
        f"on {', '.join(kind.target_modules)}; {manifest.layout.parameters:,} parameters",
        f"text       up to {text.max_tokens} tokens, truncated {text.truncation_side}, "
        f"padded {text.padding_side} with {text.pad_id} to a multiple of {text.pad_to_multiple_tokens}",
        f"batch      {chain.batch_examples} examples of {'any' if chain.dynamic_tokens else 'one'} length",
        "",
        f"{'part':<12}{'bytes':>14}  sha256",
    ]
    for part, entry in sorted(manifest.files.items()):
        lines.append(f"{part:<12}{entry.size_bytes:>14,}  {entry.sha256}")
    lines += ["", f"{'method':<12}{'delegates':>10}{'planned bytes':>15}  outside XNNPACK"]
    for method in chain.methods:
        outside = ", ".join(method.undelegated_operators) or "-"
        lines.append(f"{method.name:<12}{method.delegates:>10}{method.planned_bytes:>15,}  {outside}")
    lines += ["", f"{'segment':>7}{'offset':>9}{'count':>8}  {'grid':<7}{'shape':<10}adapter tensor"]
    for tensor in bundle.layout.tensors:
        shape = "x".join(str(size) for size in tensor.shape)
        grid = f"2^{-tensor.exponent}"
        lines.append(
            f"{tensor.segment:>7}{tensor.offset:>9}{tensor.count:>8}  {grid:<7}{shape:<10}{tensor.name}"
        )
    return lines


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
