"""Programs of several precisions, measured one after another, of which the bundle gets one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_runtime.bundle import Bundle
from export.fidelity import Point, Reference, best, choose
from export.lowering import Progress
from protos import bundle_pb2

AUTO = "auto"
# What "auto" tries: those that are fast and small first, so that a terminal shows early what it comes to.
AUTOMATIC = ("int4", "int8", "fp32")


@dataclass(frozen=True)
class Trial:
    """A bundle that was exported in one precision and measured."""

    bundle: Bundle
    fidelity: bundle_pb2.Fidelity


def chosen(
    precision: str,
    attempt: Callable[[str], Bundle],
    reference: Callable[[Bundle], Reference],
    progress: Progress,
    note: Progress,
) -> Trial:
    """The program to ship: of that precision, or with "auto" the fastest that is true enough.

    Args:
        precision: "auto", or the only one to try.
        attempt: exports a bundle in a precision.
        reference: makes, of the first bundle, what all are held against.
        progress: told what is being done.
        note: told what was measured, a line a precision.
    """
    bundles: dict[str, Bundle] = {}
    curves: dict[str, list[Point]] = {}
    forward_ms: dict[str, float] = {}
    held_against: Reference | None = None
    for name in AUTOMATIC if precision == AUTO else (precision,):
        bundles[name] = attempt(name)
        if held_against is None:
            progress("differentiating the float32 model")
            held_against = reference(bundles[name])
        curves[name], forward_ms[name] = held_against.curve(bundles[name], progress)
        note(_line(name, curves[name], forward_ms[name], bundles[name].program_path))
    assert held_against is not None
    winner = choose(curves, forward_ms)
    if precision == AUTO:
        note(f"precision {winner}")
    return Trial(bundles[winner], held_against.entry(curves[winner]))


def _line(name: str, points: Sequence[Point], forward_ms: float, program: Path) -> str:
    point = best(points)
    return (
        f"{name}: correlation {point.smaller:.4f} at ε = {point.epsilon:g}, "
        f"{forward_ms:.1f} ms a forward, {program.stat().st_size / 1e6:.1f} MB"
    )
