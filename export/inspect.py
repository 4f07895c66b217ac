"""`cooperllm inspect`: what is in a bundle. It runs where a device does: without torch and executorch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from device_runtime.bundle import Bundle, manifest_json
from export.outside import reason
from protos import bundle_pb2

# A layout of so few tensors is shown without being asked for.
FEW_TENSORS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `cooperllm inspect`."""
    parser.add_argument("bundle", metavar="BUNDLE", help="the bundle's folder")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to print it (default: text)"
    )
    parser.add_argument(
        "--layout", action="store_true", help="every adapter tensor, also when there are many"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the chain of segments there too")


def run(args: argparse.Namespace) -> int:
    """Checks a bundle as a device would, and prints what is in it."""
    bundle = Bundle.open(args.bundle)
    if args.svg:
        from export.picture import draw

        args.svg.write_text(draw(bundle), "utf-8")
    if args.format == "json":
        print(json.dumps(fields(bundle), indent=1, ensure_ascii=False))
    else:
        print("\n".join(describe(bundle, args.layout or len(bundle.layout.tensors) <= FEW_TENSORS)))
    return 0


def fields(bundle: Bundle) -> dict[str, Any]:
    """The manifest's fields, and beside them the bundle's name and why operators are outside XNNPACK."""
    manifest: dict[str, Any] = json.loads(manifest_json(bundle.manifest))
    return {"sha256": bundle.sha256, **manifest, "outside_xnnpack": outside(bundle)}


def outside(bundle: Bundle) -> list[dict[str, str]]:
    """Every operator that a method leaves outside its delegate, once a method, with the reason."""
    return [
        {"method": method.name, "operator": operator, "reason": reason(method.name, operator)}
        for method in bundle.manifest.chain.methods
        for operator in dict.fromkeys(method.undelegated_operators)
    ]


def describe(bundle: Bundle, layout: bool) -> list[str]:
    """The bundle as lines for a terminal; `layout` for every adapter tensor."""
    return [
        *_summary(bundle), "", *_parts(bundle), "", *_methods(bundle), "",
        *_outside(bundle), "", *_fidelity(bundle), "", *_adapter(bundle),
        *(["", *_tensors(bundle)] if layout else []),
    ]  # fmt: skip


def chain_methods(bundle: Bundle) -> list[bundle_pb2.MethodEntry]:
    """What one forward runs, in order: embed, segments, head; methods beside the chain are left out."""
    names = ["embed", *(f"segment_{k}" for k in range(bundle.manifest.chain.segments)), "head"]
    by_name = {method.name: method for method in bundle.manifest.chain.methods}
    return [by_name[name] for name in names if name in by_name]


def settings(entry: Message) -> str:
    """A kind's entry in words: its kind, then every plain field that is set: "lora, r 8, lora_alpha 16"."""
    words = []
    for field, value in entry.ListFields():
        if field.name != "class_names" and not (field.is_repeated and field.message_type):
            shown = ", ".join(map(str, value)) if field.is_repeated else _number(value)
            words.append(shown if field.name == "kind" else f"{field.name} {shown}")
    return ", ".join(words)


def amount(number: float, unit: str) -> str:
    """Three digits and a decimal prefix: 1234567 → "1.23 M" + unit."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            scaled = number / size
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f} {prefix}{unit}"
    return f"{number:.0f} {unit}"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _summary(bundle: Bundle) -> list[str]:
    manifest = bundle.manifest
    text, chain = manifest.text, manifest.chain
    classes = ""
    if manifest.task.class_names:
        classes = f"; {len(manifest.task.class_names)} classes: " + ", ".join(manifest.task.class_names)
    return [
        f"bundle     {bundle.sha256}",
        f"made by    {manifest.created_by}",
        f"source     {manifest.source.model} (weights sha256 {manifest.source.weights_sha256})",
        f"family     {manifest.family}, {manifest.precision}, hidden size {chain.hidden_size}",
        f"task       {settings(manifest.task)}{classes}",
        f"adapter    {settings(manifest.adapter)}; {manifest.layout.parameters:,} parameters",
        f"text       up to {text.max_tokens} tokens, truncated {text.truncation_side}, "
        f"padded {text.padding_side} with {text.pad_id} to a multiple of {text.pad_to_multiple_tokens}",
        f"batch      {chain.batch_examples} examples of {'any' if chain.dynamic_tokens else 'one'} length",
    ]


def _parts(bundle: Bundle) -> list[str]:
    lines = [f"{'part':<12}{'bytes':>15}  sha256"]
    for part, entry in sorted(bundle.manifest.files.items()):
        lines.append(f"{part:<12}{entry.size_bytes:>15,}  {entry.sha256}")
    total = sum(entry.size_bytes for entry in bundle.manifest.files.values())
    return [*lines, f"{'in all':<12}{total:>15,}"]


def _methods(bundle: Bundle) -> list[str]:
    chain = bundle.manifest.chain
    heads = ("blocks", "delegates", "outside", "FLOPs", "constants", "planned")
    lines = [f"{'method':<15}" + "".join(f"{head:>11}" for head in heads)]
    for method in chain.methods:
        counts = (method.blocks or "-", method.delegates, len(method.undelegated_operators) or "-")
        sizes = (
            amount(method.flops, "") if method.flops else "-",
            amount(method.constant_bytes, "B") if method.constant_bytes else "-",
            amount(method.planned_bytes, "B"),
        )
        lines.append(f"{method.name:<15}" + "".join(f"{value!s:>11}" for value in (*counts, *sizes)))
    flops = sum(method.flops for method in chain_methods(bundle))
    planned = max((method.planned_bytes for method in chain.methods), default=0)
    tokens = f"{chain.batch_examples} x {bundle.manifest.text.max_tokens} tokens"
    if flops:
        lines.append(
            f"one forward of {tokens}: {amount(flops, 'FLOPs')}, 2 a multiply-add of matrix products"
        )
    lines.append(
        f"planned memory is shared: {planned:,} bytes in all; constants that methods share are stored once"
    )
    return lines


def _outside(bundle: Bundle) -> list[str]:
    rows = outside(bundle)
    if not rows:
        return ["outside XNNPACK: nothing"]
    width = max(len(row["operator"]) for row in rows) + 2
    lines = [f"{'method':<15}{'outside XNNPACK':<{width}}why"]
    return [*lines, *(f"{row['method']:<15}{row['operator']:<{width}}{row['reason']}" for row in rows)]


def _fidelity(bundle: Bundle) -> list[str]:
    if not bundle.manifest.HasField("fidelity"):
        return ["fidelity: not measured"]
    measured = bundle.manifest.fidelity
    lines = [
        f"correlation of projected gradients with the fp32 model's directional derivatives, "
        f"{measured.directions} directions, {measured.examples} examples",
        f"{'epsilon':>10}{'initial':>10}{'moved':>10}",
    ]
    for point in measured.points:
        best = "  <- least error" if point.epsilon == measured.epsilon else ""
        lines.append(
            f"{point.epsilon:>10.2g}{point.initial_correlation:>10.4f}{point.moved_correlation:>10.4f}{best}"
        )
    return lines


def _adapter(bundle: Bundle) -> list[str]:
    layout, last = bundle.layout, bundle.manifest.chain.segments
    lines = [
        f"{'segment':<12}{'offset':>11}{'parameters':>12}{'bytes':>13}{'tensors':>9}  {'grid':<12}adapter"
    ]
    for segment in range(last + 1):
        tensors = layout.segment_tensors(segment)
        count = sum(tensor.count for tensor in tensors)
        exponents = sorted({tensor.exponent for tensor in tensors})
        grid = "2^" + "/".join(str(-exponent) for exponent in exponents) if tensors else "-"
        name = "head" if segment == last else f"segment_{segment}"
        lines.append(
            f"{name:<12}{tensors[0].offset if tensors else '-':>11}{count:>12,}{4 * count:>13,}"
            f"{len(tensors):>9}  {grid:<12}{_kinds(tensors)}"
        )
    return lines


def _kinds(tensors: Any) -> str:
    """What a segment's tensors are: the ends of their names, with their counts."""
    ends: dict[str, int] = {}
    for tensor in tensors:
        end = ".".join(tensor.name.removesuffix(".weight").split(".")[-2:])
        ends[end] = ends.get(end, 0) + 1
    shown = [f"{end} x{count}" if count > 1 else end for end, count in list(ends.items())[:4]]
    return ", ".join([*shown, "…"] if len(ends) > 4 else shown) or "-"


def _tensors(bundle: Bundle) -> list[str]:
    lines = [f"{'segment':>7}{'offset':>11}{'count':>11}  {'grid':<7}{'shape':<12}adapter tensor"]
    for tensor in bundle.layout.tensors:
        shape = "x".join(str(size) for size in tensor.shape)
        lines.append(
            f"{tensor.segment:>7}{tensor.offset:>11}{tensor.count:>11}  "
            f"{f'2^{-tensor.exponent}':<7}{shape:<12}{tensor.name}"
        )
    return lines
