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

Facts are gathered segment by segment, so that guides may come and go one segment at a time (`Weighing`). So
that no power overflows, a segment's sums are in units of its own largest entry u_k, and count
(u_k / max_k u_k)^2 times when they are combined. Where even the fourth power of that ratio is zero in
float64, a segment counts as empty: the grid rounds what is there to nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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
    """Bounds of every z_i^2 of one segment, float64, in units of the largest."""

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


class _Facts(NamedTuple):
    """What is kept of a form in one segment: sums in units of `unit`^2, the square of its largest entry."""

    unit: float
    least: float
    most: float
    spread: float
    parameters: int


class Weighing:
    """Counts a task's scalars by where the energy of their directions lies, one segment after the other.

    `guides` are the names of those that the task may speak of. Call add_segment() once for each of
    `segments`, in any order, then verdict().

    Raises BudgetExceeded where directions repeat noise: report it, nothing was disclosed.
    """

    def __init__(self, task: pb.DirectionsTask, guides: Collection[bytes], head_segment: int) -> None:
        _check_noise(task)
        self._head_segment = head_segment
        self._facts: dict[Form, dict[int, _Facts]] = {}
        self._counts: list[tuple[Form, int]] = []
        for direction, form in _forms(task):
            self._facts.setdefault(form, {})
            self._counts.append((form, max(1, direction.count)))
        self._known = frozenset(guides)

    @property
    def segments(self) -> list[int]:
        """All segments in which a direction is active, ascending."""
        return sorted({segment for form in self._facts for segment in form.active_segments})

    def add_segment(
        self,
        segment: int,
        parameters: int,
        scale: NDArray[np.float32] | None,
        guides: Mapping[bytes, NDArray[np.float32]],
    ) -> None:
        """One pass over a segment for every form. `scale` (None for 1) and `guides`, zero where there is
        none, are the segment's own values, float32 (parameters,); none is kept.
        """
        for form, facts in self._facts.items():
            if segment in form.active_segments:
                facts[segment] = _facts_of(*_magnitudes(form, parameters, scale, guides))

    def verdict(self) -> Disclosure:
        """What the task discloses, once every segment was added.

        Raises BudgetExceeded where a direction is concentrated on too few parameters, UnsupportedTask where
        one is not finite, names an unknown guide or was not seen whole: report it, nothing was disclosed.
        """
        guided: tuple[tuple[bytes, float], ...] = ()  # the first combination of guides
        of_head: dict[Form, bool] = {}
        for form, facts in self._facts.items():
            guided = guided or form.guides
            of_head[form] = self._is_of_head(form, facts) or form.guides not in ((), guided)
        scalars = sum(count for _, count in self._counts)
        return Disclosure(scalars, sum(count for form, count in self._counts if of_head[form]))

    def _is_of_head(self, form: Form, facts: Mapping[int, _Facts]) -> bool:
        """Whether scalars of this form count as the head's alone."""
        if form.active_segments and not self._known.issuperset(name for name, _ in form.guides):
            raise UnsupportedTask("a direction names a guide that was not sent: correct the task")
        if len(facts) < len(set(form.active_segments)):
            raise UnsupportedTask("a direction was not seen in all of its segments: stream the guides again")
        if not all(np.isfinite(each.unit) for each in facts.values()):
            raise UnsupportedTask(
                "a direction is not finite: correct the task's scale, guides or coefficients"
            )
        largest = max((each.unit for each in facts.values()), default=0.0) or 1.0
        head = rest = 0.0
        for segment in dict.fromkeys(form.active_segments):
            each = facts[segment]
            share = (each.unit / largest) ** 2
            _check_spread(segment, each.spread if share**2 > 0 else np.inf, each.parameters)
            if segment == self._head_segment:
                head = share * each.most
            elif segment >= form.boundary:
                rest += share * each.least
        return form.isotropic_scale == 0 or head > LARGEST_SHARE * (head + rest)


def weigh(
    task: pb.DirectionsTask, supplies: Supplies, spans: Mapping[int, slice], head_segment: int
) -> Disclosure:
    """What `Weighing` finds, where scale and guides are here whole. `spans` says where in the adapter a
    segment's parameters are. Raises what `Weighing` does.
    """
    weighing = Weighing(task, supplies.guides, head_segment)
    for segment in weighing.segments:
        span = spans[segment]
        scale = None if supplies.scale is None else supplies.scale[span]
        guides = {name: slices[segment] for name, slices in supplies.guides.items() if segment in slices}
        weighing.add_segment(segment, span.stop - span.start, scale, guides)
    return weighing.verdict()


def _forms(task: pb.DirectionsTask) -> Iterator[tuple[pb.Direction, Form]]:
    for step in task.steps:
        for direction in step.directions:
            terms = tuple((term.guide_sha256, term.coefficient) for term in direction.guides)
            active = tuple(direction.active_segments or task.active_segments)
            form = Form(direction.isotropic_scale, terms, active, direction.boundary, direction.exact)
            yield direction, form


def _check_spread(segment: int, found: float, parameters: int) -> None:
    wanted = min(LEAST_SPREAD, SMALL_SEGMENT_FRACTION * parameters)
    if found < wanted:
        raise BudgetExceeded(
            f"a direction lies on {found:.1f} parameters of segment {segment} in effect, at least "
            f"{wanted:g} disclosed about: spread its scale or guide"
        )


def _facts_of(low: NDArray[np.float64], high: NDArray[np.float64]) -> _Facts:
    """Of the least and the largest magnitudes of a segment's entries."""
    unit = float(np.max(high, initial=0.0))
    if unit == 0 or not np.isfinite(unit):
        return _Facts(unit, 0.0, 0.0, np.inf, len(high))
    squares = _Squares((low / unit) ** 2, (high / unit) ** 2)
    sums = float(squares.least.sum()), float(squares.most.sum())
    return _Facts(unit, *sums, squares.spread(), len(high))


def _magnitudes(
    form: Form,
    parameters: int,
    scale: NDArray[np.float32] | None,
    guides: Mapping[bytes, NDArray[np.float32]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the largest magnitude of each entry of z in a segment, whatever the noise's signs."""
    noise = np.full(parameters, abs(form.isotropic_scale))
    with np.errstate(over="ignore", invalid="ignore"):  # checked in the verdict
        if scale is not None:
            noise *= scale
        if not form.guides:
            return noise, noise
        guided = np.zeros_like(noise)
        for name, coefficient in form.guides:
            if name in guides:
                guided += coefficient * guides[name].astype(np.float64)
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
