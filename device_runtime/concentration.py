"""Where a direction's energy lies: what a scale or a guide of the cloud's could turn a direction into.

By its segments a direction may cover the whole adapter and yet, with a scale or a guide that is tiny outside
the head, measure the head alone; or, where all is tiny but one bias, count a label. So once scale and guides
are here, and before anything is measured, the device looks at every form of direction that a task names. With
p = |isotropic_scale| s and q = |sum_j c_j u_j|, an entry of z is between |p - q| and p + q in magnitude,
whatever the noise's signs. That bounds, without expanding a seed,

    share    of |z|^2 that is the head's: at most H / (H + R), H = sum_head (p + q)^2, R = sum_rest (p - q)^2
    spread   (sum z^2)^2 / sum z^4 of a segment: at least its minimum over all entries' magnitudes

The spread is the number of parameters that share a segment's energy (the participation ratio, R. J. Bell and
P. Dean, Discuss. Faraday Soc. 50, 1970). A square over a linear function is convex, so at its minimum
the entries with the largest p^2 + q^2 are at p + q and the others at |p - q|, but for one in between. The
rules:

    share above 1/2       the scalar counts as one of the head's alone
    no noise, or other    the same: differences of guides can be anything
    guides than before
    spread below 8        the task is refused; below 1/64 of a segment of fewer than 512 parameters
    noise used twice,     the task is refused: the difference of two scalars would be about what differs;
    in different forms    directions without noise count as having the same

Noise before a `boundary` may be that of other directions and vanish from a difference, so a share is taken
from there on. The rules bound energies. They do not know the gradient, and bound nothing across rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protos import federation_pb2 as pb

from .budget import Disclosure
from .errors import BudgetExceeded, UnsupportedTask
from .guides import Slices

LARGEST_SHARE = 0.5
LEAST_SPREAD = 8.0
SMALL_SEGMENT_FRACTION = 1 / 64


class Form(NamedTuple):
    """All of a direction but its seeds. Equal forms are looked at once."""

    isotropic_scale: float
    guides: tuple[tuple[bytes, float], ...]
    active_segments: tuple[int, ...]
    boundary: int
    exact: bool


class Supplies(NamedTuple):
    """What a task's directions are made of: the scale (n,), None for 1, and its guides by segment."""

    scale: NDArray[np.float32] | None
    guides: Mapping[bytes, Slices]


class _Squares(NamedTuple):
    """Bounds of every z_i^2 of one segment, float64."""

    least: NDArray[np.float64]
    most: NDArray[np.float64]

    def spread(self) -> float:
        """The least number of parameters that can share the segment's energy; infinite without any."""
        order = np.argsort(-(self.least + self.most), kind="stable")
        least, most = self.least[order], self.most[order]
        more, more_fourth = most - least, most**2 - least**2
        energy = float(least.sum()) + np.append(0.0, np.cumsum(more))
        fourth = float((least**2).sum()) + np.append(0.0, np.cumsum(more_fourth))
        more, more_fourth = np.append(more, 0.0), np.append(more_fourth, 0.0)
        # The next entry is anywhere between its bounds: (E + t e)^2 / (F + t f) is least at this t in 0 .. 1.
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.nan_to_num((energy * more_fourth - 2 * more * fourth) / (more * more_fourth))
            part = np.clip(part, 0.0, 1.0)
            spreads = (energy + part * more) ** 2 / (fourth + part * more_fourth)
        return float(np.nanmin(spreads)) if fourth[-1] > 0 else np.inf


def weigh(
    task: pb.DirectionsTask, supplies: Supplies, spans: Mapping[int, slice], head_segment: int
) -> Disclosure:
    """Counts a task's scalars by where the energy of their directions lies; one pass over the active
    parameters for every form.

    `spans` says where in the adapter a segment's parameters are.

    Raises BudgetExceeded where a direction is concentrated on too few parameters, or repeats noise: report
    it, nothing was disclosed.
    """
    _check_noise(task)
    scalars = head_scalars = 0
    weighed: dict[Form, bool] = {}
    guided: tuple[tuple[bytes, float], ...] = ()  # the first combination of guides
    for direction, form in _forms(task):
        guided = guided or form.guides
        if form not in weighed:
            of_head = _is_of_head(form, supplies, spans, head_segment)
            weighed[form] = of_head or form.guides not in ((), guided)
        count = max(1, direction.count)
        scalars += count
        head_scalars += count * weighed[form]
    return Disclosure(scalars, head_scalars)


def _forms(task: pb.DirectionsTask) -> Iterator[tuple[pb.Direction, Form]]:
    for step in task.steps:
        for direction in step.directions:
            terms = tuple((term.guide_sha256, term.coefficient) for term in direction.guides)
            active = tuple(direction.active_segments or task.active_segments)
            form = Form(direction.isotropic_scale, terms, active, direction.boundary, direction.exact)
            yield direction, form


def _is_of_head(form: Form, supplies: Supplies, spans: Mapping[int, slice], head_segment: int) -> bool:
    """Whether scalars of this form count as the head's alone. Raises BudgetExceeded."""
    squares = _squares(form, supplies, spans)
    for segment, bounds in squares.items():
        wanted = min(LEAST_SPREAD, SMALL_SEGMENT_FRACTION * len(bounds.most))
        if (found := bounds.spread()) < wanted:
            raise BudgetExceeded(
                f"a direction lies on {found:.1f} parameters of segment {segment} in effect, at least "
                f"{wanted:g} disclosed about: spread its scale or guide"
            )
    body = [segment for segment in squares if segment != head_segment and segment >= form.boundary]
    rest = sum(float(squares[segment].least.sum()) for segment in body)
    head = float(squares[head_segment].most.sum()) if head_segment in squares else 0.0
    return form.isotropic_scale == 0 or head > LARGEST_SHARE * (head + rest)


def _squares(form: Form, supplies: Supplies, spans: Mapping[int, slice]) -> dict[int, _Squares]:
    """Bounds of z_i^2 by segment, in units of the largest z_i^2, so that no power overflows.

    Raises UnsupportedTask where one is not finite.
    """
    bounds = {segment: _magnitudes(form, segment, supplies, spans) for segment in form.active_segments}
    largest = max(float(np.max(most, initial=0.0)) for _, most in bounds.values())
    if not np.isfinite(largest):
        raise UnsupportedTask("a direction is not finite: correct the task's scale, guides or coefficients")
    unit = largest or 1.0
    return {
        segment: _Squares((low / unit) ** 2, (high / unit) ** 2) for segment, (low, high) in bounds.items()
    }


def _magnitudes(
    form: Form, segment: int, supplies: Supplies, spans: Mapping[int, slice]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the largest magnitude of each entry of z in a segment, whatever the noise's signs."""
    span = spans[segment]
    noise = np.full(span.stop - span.start, abs(form.isotropic_scale))
    with np.errstate(over="ignore", invalid="ignore"):  # checked by the caller
        if supplies.scale is not None:
            noise *= supplies.scale[span]
        if not form.guides:
            return noise, noise
        guided = np.zeros_like(noise)
        for sha256, coefficient in form.guides:
            if sha256 not in supplies.guides:
                raise UnsupportedTask("a direction names a guide that was not sent: correct the task")
            slices = supplies.guides[sha256]
            if segment in slices:
                guided += coefficient * slices[segment].astype(np.float64)
        guided = np.abs(guided)
        return np.abs(noise - guided), noise + guided


def _check_noise(task: pb.DirectionsTask) -> None:
    """Raises BudgetExceeded when directions of different forms have the same noise, or none."""
    ranges: list[tuple[int, int, Form]] = []
    silent: set[Form] = set()
    for direction, form in _forms(task):
        start, end = direction.seed, direction.seed + max(1, direction.count)
        if form.isotropic_scale == 0:
            silent.add(form)
            continue
        ranges.append((start, end, form))
        if end > 2**64:  # seeds wrap
            ranges.append((0, end - 2**64, form))
    repeated = len(silent) > 1
    reached, holder = 0, None
    for start, end, form in sorted(ranges, key=lambda entry: entry[:2]):
        # Whatever overlaps so far is of one form.
        repeated = repeated or (start < reached and form != holder)
        reached, holder = max(reached, end), form
    if repeated:
        raise BudgetExceeded(
            "directions that differ have the same noise, so their difference would tell about a few "
            "parameters: give each seeds of its own"
        )
