"""A picture of a bundle's chain of segments, as SVG: one box a method, with what it holds and costs."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from device_runtime.bundle import Bundle
from export.inspect import amount, chain_methods, outside, settings
from protos import bundle_pb2

MARGIN, BOX_WIDTH, GAP, ROW_GAP = 24, 176, 34, 34
LINE, TOP, BAR = 19, 30, 6
MAX_COLUMNS = 6
HEADER = 92
# Colours of GitHub's light and dark pages, so that the picture suits both.
STYLE = """
    .page { fill: #ffffff }
    .box { fill: #f6f8fa; stroke: #57606a; stroke-width: 1.4 }
    .trained { fill: #eef6ff; stroke: #0969da }
    .title { fill: #1f2328; font-weight: 600; font-size: 18px }
    .name { fill: #1f2328; font-weight: 600 }
    .text { fill: #424a53; font-size: 13px }
    .left { fill: #8f5200; font-size: 13px }
    .track { fill: #d8dee4 } .share { fill: #0969da }
    .arrow { stroke: #57606a; fill: none; stroke-width: 1.6 } .tip { fill: #57606a }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117 }
      .box { fill: #161b22; stroke: #8b949e }
      .trained { fill: #0c1d33; stroke: #58a6ff }
      .title, .name { fill: #e6edf3 }
      .text { fill: #b1bac4 } .left { fill: #e3b341 }
      .track { fill: #30363d } .share { fill: #58a6ff }
      .arrow { stroke: #8b949e } .tip { fill: #8b949e }
    }
"""


def draw(bundle: Bundle) -> str:
    """The picture. Boxes run in rows from left to right; blue ones hold a part of the adapter.

    The bar at a box's foot is its share of a forward's FLOPs, relative to the method with most.
    """
    methods = chain_methods(bundle)
    columns = _columns(len(methods))
    boxes = [_lines(bundle, methods, i) for i in range(len(methods))]
    height = TOP + LINE * max(len(lines) for lines in boxes) + 2 * BAR + 8
    width = max(2 * MARGIN + columns * (BOX_WIDTH + GAP) - GAP, 700)
    most = max((method.flops for method in methods), default=0) or 1
    places = [
        (MARGIN + (i % columns) * (BOX_WIDTH + GAP), HEADER + (i // columns) * (height + ROW_GAP))
        for i in range(len(methods))
    ]
    body = [*_header(bundle)]
    for i, (place, method) in enumerate(zip(places, methods, strict=True)):
        body += _box(place, height, method.name, boxes[i], method.flops / most, _trains(bundle, i))
        if i:
            body.append(_arrow(places[i - 1], place, height))
    foot = places[-1][1] + height + 36
    body += [f'<text class="text" x="{MARGIN}" y="{foot + LINE * i}">{escape(line)}</text>'
             for i, line in enumerate(_foot(bundle))]  # fmt: skip
    total = foot + LINE * len(_foot(bundle)) + MARGIN - LINE
    return "\n".join([*_opening(bundle, width, total), *body, "</svg>"]) + "\n"


def _columns(boxes: int) -> int:
    """As few rows as MAX_COLUMNS allows, evenly filled."""
    rows = -(-boxes // MAX_COLUMNS)
    return -(-boxes // rows)


def _opening(bundle: Bundle, width: int, height: int) -> Iterator[str]:
    name = escape(bundle.manifest.source.model)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-labelledby="title" font-size="14" '
        "font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif\">"
    )
    yield f'<title id="title">The chain of segments of {name}</title>'
    yield f"<style>{STYLE}</style>"
    yield (
        '<defs><marker id="tip" markerWidth="9" markerHeight="9" refX="8" refY="4.5" orient="auto" '
        'markerUnits="userSpaceOnUse"><path class="tip" d="M0 0 L9 4.5 L0 9 z"/></marker></defs>'
    )
    yield f'<rect class="page" width="{width}" height="{height}" rx="8"/>'


def _header(bundle: Bundle) -> Iterator[str]:
    manifest = bundle.manifest
    chain, methods = manifest.chain, chain_methods(bundle)
    program = amount(manifest.files["program"].size_bytes, "B")
    lines = [
        f"{_cut(settings(manifest.task), 40)} · {_cut(settings(manifest.adapter), 70)}",
        f"program {program} · {manifest.layout.parameters:,} adapter parameters · "
        f"{amount(sum(method.flops for method in methods), 'FLOPs')} a forward of "
        f"{chain.batch_examples} × {manifest.text.max_tokens} tokens · planned memory "
        f"{amount(max(method.planned_bytes for method in methods), 'B')}",
    ]
    title = f"{_cut(manifest.source.model, 44)} ({manifest.family}, {manifest.precision})"
    yield f'<text class="title" x="{MARGIN}" y="34">{escape(title)}</text>'
    for i, line in enumerate(lines):
        yield f'<text class="text" x="{MARGIN}" y="{56 + LINE * i}">{escape(line)}</text>'


def _trains(bundle: Bundle, index: int) -> bool:
    """Whether a method, by its place in the chain, reads a part of the adapter; `embed` comes first."""
    return index > 0 and bool(bundle.layout.segment_tensors(index - 1))


def _lines(bundle: Bundle, methods: list[bundle_pb2.MethodEntry], index: int) -> list[tuple[str, str]]:
    """(style, text) of a box below its name."""
    method, lines = methods[index], []
    if method.blocks:
        first = sum(entry.blocks for entry in methods[:index])
        last = first + method.blocks - 1
        lines.append(("text", f"block {first}" if first == last else f"blocks {first} to {last}"))
    if _trains(bundle, index):
        count = sum(tensor.count for tensor in bundle.layout.segment_tensors(index - 1))
        lines.append(("text", f"{count:,} parameters"))
    if method.constant_bytes:
        lines.append(("text", f"{amount(method.constant_bytes, 'B')} of constants"))
    if method.flops:
        lines.append(("text", amount(method.flops, "FLOPs")))
    delegates = f"{method.delegates} delegate{'' if method.delegates == 1 else 's'}"
    left = len(method.undelegated_operators)
    lines.append(("left", f"{delegates}, {left} outside") if left else ("text", delegates))
    return lines


def _box(
    place: tuple[int, int], height: int, name: str, lines: list[tuple[str, str]], share: float, trained: bool
) -> Iterator[str]:
    x, y = place
    yield (
        f'<rect class="box{" trained" if trained else ""}" x="{x}" y="{y}" width="{BOX_WIDTH}" '
        f'height="{height}" rx="8"/>'
    )
    yield f'<text class="name" x="{x + 12}" y="{y + 24}">{escape(name)}</text>'
    for i, (style, line) in enumerate(lines):
        yield f'<text class="{style}" x="{x + 12}" y="{y + TOP + 15 + LINE * i}">{escape(line)}</text>'
    inner, foot = BOX_WIDTH - 24, y + height - BAR - 10
    yield f'<rect class="track" x="{x + 12}" y="{foot}" width="{inner}" height="{BAR}" rx="3"/>'
    if share > 0:
        filled = max(3.0, inner * share)
        yield f'<rect class="share" x="{x + 12}" y="{foot}" width="{filled:.1f}" height="{BAR}" rx="3"/>'


def _arrow(start: tuple[int, int], end: tuple[int, int], height: int) -> str:
    """From a box to the next: straight in a row, around the corner to the row below."""
    (x, y), (to_x, to_y) = start, end
    if y == to_y:
        path = f"M{x + BOX_WIDTH} {y + height // 2} H{to_x - 2}"
    else:
        path = f"M{x + BOX_WIDTH // 2} {y + height} v{ROW_GAP // 2} H{to_x + BOX_WIDTH // 2} V{to_y - 2}"
    return f'<path class="arrow" d="{path}" marker-end="url(#tip)"/>'


def _foot(bundle: Bundle) -> list[str]:
    """The operators outside XNNPACK, by method, a few on a line."""
    lines = ["Bars: FLOPs beside the method with most. Blue boxes hold a part of the adapter."]
    beside = len(bundle.manifest.chain.methods) - len(chain_methods(bundle))
    if beside:
        lines.append(f"Not drawn: {beside} methods beside the chain; `cooperllm inspect` lists them.")
    by_method: dict[str, list[str]] = {}
    for row in outside(bundle):
        by_method.setdefault(row["method"], []).append(row["operator"].split("::")[-1].split(".")[0])
    for method, operators in by_method.items():
        for i in range(0, len(operators), 7):
            start = f"Outside XNNPACK in {method}: " if i == 0 else "    "
            lines.append(start + ", ".join(operators[i : i + 7]))
    return lines


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
