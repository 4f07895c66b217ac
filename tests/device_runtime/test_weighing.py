"""Directions weighed segment by segment: the verdicts of looking at all of an adapter at once."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.budget import Disclosure
from device_runtime.concentration import (
    LARGEST_SHARE,
    LEAST_SPREAD,
    SMALL_SEGMENT_FRACTION,
    Form,
    Supplies,
    Weighing,
    _forms,
    _magnitudes,
    _Squares,
    weigh,
)
from device_runtime.errors import BudgetExceeded, TaskRefused, UnsupportedTask
from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb

from .test_concentration import GUIDE, HEAD, SPANS, guided, noise, ones, task

SMALL = Layout.build(
    [(f"t{i}", k, (size,), 20) for i, (k, size) in enumerate([(0, 90), (1, 40), (2, 24), (3, 30)])]
)
SMALL_SPANS = {segment: SMALL.segment_slice(segment) for segment in range(HEAD + 1)}


def at_once(form: Form, supplies: Supplies, spans: dict[int, slice]) -> str:
    """One form, looked at whole: every square in units of the largest of all segments."""
    bounds = {}
    for segment in form.active_segments:
        span = spans[segment]
        scale = None if supplies.scale is None else supplies.scale[span]
        guides = {name: slices[segment] for name, slices in supplies.guides.items()}
        bounds[segment] = _magnitudes(form, span.stop - span.start, scale, guides)
    units = [float(np.max(high, initial=0.0)) for _, high in bounds.values()]
    if not np.all(np.isfinite(units)):
        return "REFUSED_UNSUPPORTED"
    unit = max(units, default=0.0) or 1.0
    squares = {s: _Squares((low / unit) ** 2, (high / unit) ** 2) for s, (low, high) in bounds.items()}
    for each in squares.values():
        if each.spread() < min(LEAST_SPREAD, SMALL_SEGMENT_FRACTION * len(each.most)):
            return "REFUSED_DISCLOSURE_BUDGET"
    rest = sum(float(e.least.sum()) for s, e in squares.items() if s != HEAD and s >= form.boundary)
    head = float(squares[HEAD].most.sum()) if HEAD in squares else 0.0
    return "head" if form.isotropic_scale == 0 or head > LARGEST_SHARE * (head + rest) else "all"


def found(wanted: pb.DirectionsTask, supplies: Supplies) -> str:
    try:
        disclosure = weigh(wanted, supplies, SMALL_SPANS, HEAD)
    except TaskRefused as refusal:
        return refusal.status
    return "head" if disclosure.head_scalars else "all"


def drawn(seed: int) -> tuple[pb.DirectionsTask, Supplies]:
    """One direction whose scale, guides and coefficients may be of any magnitude, anywhere."""
    rng = np.random.default_rng(seed)
    reach = float(rng.choice([0.3, 1.0, 6.0, 35.0]))  # decades

    def vector() -> NDArray[np.float32]:
        values = rng.normal(size=SMALL.parameters) * (
            rng.random(SMALL.parameters) < rng.choice([0.05, 1.0, 1.0])
        )
        for span in SMALL_SPANS.values():
            values[span] *= 10.0 ** rng.uniform(-reach, reach)
        if rng.random() < 0.3:
            values[rng.integers(SMALL.parameters)] *= 10.0 ** rng.uniform(0, reach)
        return np.clip(values, -3e38, 3e38).astype(np.float32)

    direction = noise(
        1, scale=float(rng.choice([0.0, 1.0, 0.3, -2.0]) * 10.0 ** rng.uniform(-3 * reach, 3 * reach))
    )
    direction.boundary = int(rng.choice([0, 0, 1, 2, 3]))
    guides = {}
    for name in (GUIDE, b"h" * 32)[: rng.integers(0, 3)]:
        values = vector()
        guides[name] = {segment: values[span] for segment, span in SMALL_SPANS.items()}
        direction.guides.add(
            guide_sha256=name, coefficient=float(rng.normal() * 10.0 ** rng.uniform(-3 * reach, 3 * reach))
        )
    active = sorted(rng.choice(HEAD + 1, rng.integers(1, HEAD + 2), replace=False).tolist())
    scale = np.abs(vector()) + np.float32(1e-38) if rng.random() < 0.5 else None
    return task(direction, active=tuple(active)), Supplies(scale, guides)


def test_verdicts_are_those_of_all_at_once() -> None:
    told: dict[str, int] = {}
    for seed in range(3000):
        wanted, supplies = drawn(seed)
        (_, form), *_ = _forms(wanted)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = at_once(form, supplies, SMALL_SPANS)
        assert found(wanted, supplies) == expected, seed
        told[expected] = told.get(expected, 0) + 1
    assert min(told.get(kind, 0) for kind in ("all", "head", "REFUSED_DISCLOSURE_BUDGET")) > 100, told


@pytest.mark.parametrize(
    ("ratio", "refused"), [(1e-30, True), (1e-76, True), (1e-82, False), (1e-300, False)]
)
def test_a_segment_that_is_tiny_beside_the_others(ratio: float, refused: bool) -> None:
    """One parameter alone in segment 0: refused, until it is so small that its fourth power is nothing."""
    alone = np.zeros(4000, np.float32)
    alone[0] = 1.0
    direction = guided(1, scale=0.0, coefficient=ratio)
    direction.guides.add(guide_sha256=b"h" * 32, coefficient=1.0)
    supplies = Supplies(None, {GUIDE: {0: alone}, b"h" * 32: {1: np.ones(4000, np.float32)}})
    if not refused:
        assert weigh(task(direction), supplies, SPANS, HEAD) == Disclosure(1, 1)
        return
    with pytest.raises(BudgetExceeded, match="of segment 0"):
        weigh(task(direction), supplies, SPANS, HEAD)


def streamed(wanted: pb.DirectionsTask, order: list[int], guide: NDArray[np.float32]) -> Disclosure:
    weighing = Weighing(wanted, [GUIDE], HEAD)
    for segment in order:
        span = SPANS[segment]
        weighing.add_segment(segment, span.stop - span.start, None, {GUIDE: guide[span]})
    return weighing.verdict()


def test_segments_come_in_any_order_and_none_may_be_missing() -> None:
    guide = np.random.default_rng(3).normal(size=len(ones())).astype(np.float32)
    wanted = task(guided(4))
    for order in ([0, 1, 2, HEAD], [HEAD, 2, 0, 1]):
        assert streamed(wanted, order, guide) == Disclosure(4, 0)
    for missing in range(HEAD + 1):
        with pytest.raises(UnsupportedTask, match="not seen"):
            streamed(wanted, [s for s in range(HEAD + 1) if s != missing], guide)
    bias = np.zeros_like(guide)
    bias[SPANS[HEAD].start] = 100.0
    with pytest.raises(BudgetExceeded, match="of segment 3"):
        streamed(wanted, [0, 1, 2, HEAD], bias)


def test_what_repeats_noise_is_refused_before_any_guide() -> None:
    with pytest.raises(BudgetExceeded, match="same noise"):
        Weighing(task(noise(10), guided(1)), [GUIDE], HEAD)


def test_a_direction_that_is_not_finite_in_a_later_segment_alone() -> None:
    scale: NDArray[Any] = ones()
    scale[SPANS[2]] = np.nan
    with pytest.raises(UnsupportedTask, match="not finite"):
        weigh(task(noise()), Supplies(scale, {}), SPANS, HEAD)


def test_nothing_of_a_segment_is_kept() -> None:
    count = 200_000
    wanted = task(*[guided(1, seed=100 * i) for i in range(3)])
    weighing = Weighing(wanted, [GUIDE], HEAD)
    tracemalloc.start()
    for segment in range(HEAD + 1):
        weighing.add_segment(segment, count, None, {GUIDE: np.full(count, 0.5, np.float32)})
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held_bytes < 100_000
    assert weighing.verdict() == Disclosure(3, 3)
