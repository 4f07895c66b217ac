"""Guides as pictures: one round, segment by segment, and the bits of each segment over all rounds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from cooperllm.simulate.bits import GuideBits
from cooperllm.simulate.pipelined import Bar, Pipelined

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Light to dark by segment, so that order is seen in grey, too; every bar carries its number besides.
FIRST_COLOUR, LAST_COLOUR = (0.80, 0.88, 0.99), (0.12, 0.29, 0.62)
NARROWEST_NUMBER = 0.022
"""Of the width: a bar that is narrower carries no number."""


def draw(found: Pipelined, dark: bool = False) -> bytes:
    """Draw cloud, link and device as rows with a bar for every segment, as PNG; the makespan is marked, and
    the flow shop's bound and the serial time stand above.
    """
    rows: list[tuple[str, Sequence[Bar]]] = [
        ("cloud: sampling", found.sampled),
        ("link: guide", found.arrived),
        ("device: work", found.worked),
        ("device: scalars up", found.told),
    ]
    rows = [(name, bars) for name, bars in rows if bars]
    canvas, axes, ink = _page(1.35 + 0.5 * len(rows), "x", dark)
    end_s = max(bar.end_s for _, bars in rows for bar in bars)
    last = max(bar.segment for _, bars in rows for bar in bars)
    for row, (_, bars) in enumerate(rows):
        for bar in bars:
            _draw_bar(axes, row, bar, bar.segment / max(last, 1), end_s)
    axes.axvline(found.worked[-1].end_s, color="#e0912f", linewidth=1.4, linestyle="--")
    axes.set_title(words(found), color=ink, fontsize=9, loc="left")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], color=ink)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0.0, 1.02 * end_s)
    axes.set_xlabel(f"seconds; round {found.round}, {found.device}", color=ink)
    return _png(canvas)


def draw_bits(found: Sequence[GuideBits], dark: bool = False) -> bytes:
    """Draw bits a parameter by round, a line for every segment, as PNG."""
    canvas, axes, ink = _page(2.6, "both", dark)
    segments = sorted({segment for item in found for segment in item.bits_by_segment})
    for segment in segments:
        rounds = [item.round for item in found if segment in item.bits_by_segment]
        bits = [item.bits_by_segment[segment] for item in found if segment in item.bits_by_segment]
        axes.plot(rounds, bits, color=_colour(segment / max(segments[-1], 1)), linewidth=1.6,
                  marker="o" if len(rounds) < 20 else None, markersize=3, label=str(segment))  # fmt: skip
    axes.set_ylim(bottom=0.0)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("round", color=ink)
    axes.set_ylabel("bits a parameter", color=ink)
    canvas.legend(loc="outside right center", frameon=False, labelcolor=ink, fontsize=8, title="segment",
                  title_fontsize=8).get_title().set_color(ink)  # fmt: skip
    return _png(canvas)


def _page(height: float, grid: Literal["x", "both"], dark: bool) -> tuple[Canvas, Axes, str]:
    import matplotlib  # heavy, and a run without figures must not wait for it

    matplotlib.use("Agg")
    from matplotlib.figure import Figure as Canvas

    ink, faint = ("#d7dde4", "#3a424c") if dark else ("#25303b", "#dfe4ea")
    canvas = Canvas(
        figsize=(7.2, height), dpi=130, layout="constrained", facecolor="#161b22" if dark else "white"
    )
    axes = canvas.add_subplot(facecolor="none")
    axes.tick_params(colors=ink, length=0)
    axes.grid(axis=grid, color=faint, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    return canvas, axes, ink


def _png(canvas: Canvas) -> bytes:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")
    return buffer.getvalue()


def words(found: Pipelined) -> str:
    """What is written on the picture."""
    times = found.makespan_s, found.bound_s, found.serial_s
    unit, scale = ("ms", 1000.0) if max(times) < 1.0 else ("s", 1.0)
    makespan, bound, serial = (f"{scale * time_s:.3g} {unit}" for time_s in times)
    return f"makespan {makespan} (dashed), flow-shop bound {bound}, one after the other {serial}"


def _draw_bar(axes: Axes, row: int, bar: Bar, depth: float, end_s: float) -> None:
    colour = _colour(depth)
    axes.barh(
        row, bar.duration_s, left=bar.start_s, height=0.62, color=colour, edgecolor="white", linewidth=0.6
    )
    if bar.duration_s > NARROWEST_NUMBER * end_s:
        axes.text(
            bar.start_s + bar.duration_s / 2, row, str(bar.segment), ha="center", va="center", fontsize=8,
            color="white" if depth > 0.5 else "#25303b",
        )  # fmt: skip


def _colour(depth: float) -> tuple[float, float, float]:
    """The colour of a segment at `depth` of the chain, 0 first and 1 last."""
    red, green, blue = (
        first + (last - first) * depth for first, last in zip(FIRST_COLOUR, LAST_COLOUR, strict=True)
    )
    return red, green, blue
