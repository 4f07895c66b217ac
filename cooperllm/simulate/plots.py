"""The two curves of a run folder, drawn for paper-white and for dark pages."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from cooperllm.simulate.records import Curve, Figure

# Told apart by line style, too: neither a grey print nor a colour-blind reader loses a curve.
STYLES: dict[str, tuple[str, str, str]] = {
    "cooperllm": ("#4c8bf5", "-", "with devices"),
    "devices_alone": ("#e0912f", "--", "devices alone"),
    "shuffled": ("#a67be0", "-.", "devices' labels shuffled"),
}
LEVELS: dict[str, tuple[str, tuple[int, tuple[float, ...]]]] = {
    "public_alone": ("#8794a3", (0, (5, 2))),
    "oracle": ("#3cb179", (0, (1, 1.5))),
}


def draw(curves: Sequence[Curve], figures: Sequence[Figure], quantity: str, dark: bool = False) -> bytes:
    """Draw "accuracy" or "loss" by adapter version as PNG; thin lines are single seeds, thick ones their
    mean.

    The figures that have no rounds (public alone, oracle) are levels in the accuracy plot.
    """
    import matplotlib  # heavy, and a run without figures must not wait for it

    matplotlib.use("Agg")
    from matplotlib.figure import Figure as Canvas

    ink, faint = ("#d7dde4", "#3a424c") if dark else ("#25303b", "#dfe4ea")
    canvas = Canvas(
        figsize=(7.2, 3.9), dpi=130, layout="constrained", facecolor="#161b22" if dark else "white"
    )
    axes = canvas.add_subplot(facecolor="none")
    by_key: dict[str, list[Curve]] = defaultdict(list)
    for curve in curves:
        by_key[curve.key].append(curve)
    for key, group in by_key.items():
        colour, style, name = STYLES[key]
        if len(group) > 1:
            for curve in group:
                axes.plot(curve.versions, getattr(curve, quantity), color=colour, linewidth=0.7, alpha=0.45)
        versions, values = _mean_curve(group, quantity)
        axes.plot(versions, values, color=colour, linestyle=style, linewidth=2.2, label=name,
                  marker="o" if len(versions) < 20 else None, markersize=3.5)  # fmt: skip
    if quantity == "accuracy":
        for figure in figures:
            if figure.key in LEVELS:
                colour, dashes = LEVELS[figure.key]
                axes.axhline(figure.mean, color=colour, linestyle=dashes, linewidth=1.6, label=figure.name)
    axes.set_xlabel("round", color=ink)
    axes.set_ylabel("accuracy on eval" if quantity == "accuracy" else "loss on eval, nats", color=ink)
    axes.tick_params(colors=ink)
    axes.grid(color=faint, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(faint)
    canvas.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=ink, fontsize=9)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")
    return buffer.getvalue()


def _mean_curve(group: Sequence[Curve], quantity: str) -> tuple[list[int], list[float]]:
    values: dict[int, list[float]] = defaultdict(list)
    for curve in group:
        for version, value in zip(curve.versions, getattr(curve, quantity), strict=True):
            values[version].append(value)
    # Only where every seed was scored: a mean of fewer would jump for no reason of its own.
    shared = sorted(version for version, seen in values.items() if len(seen) == len(group))
    return shared, [mean(values[version]) for version in shared]


def write(folder: Path, curves: Sequence[Curve], figures: Sequence[Figure]) -> None:
    """Write accuracy.png and loss.png."""
    for quantity in ("accuracy", "loss"):
        (folder / f"{quantity}.png").write_bytes(draw(curves, figures, quantity))
