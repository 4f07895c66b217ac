"""ChainFed's schedule (arXiv 2604.06819): which segments a round trains, and when they change.

Segments 0 .. K-1 lie before the head. Stage m trains the window start+m .. start+m+Q-1; the head takes what
leaves the window; segments before the window are frozen, those after it do not run. A window that ends at K
needs no exit. The last stage is end to end: all segments from `start` on, and the head.

The head learns only in stages that run the whole chain. It was fitted there and there it will be used. At an
exit before the end its gradient is many times the window's (MiniLM, exit after 2 of 6 segments: 50 to 2, in
the scale's metric), so it would drown the window's share of every scalar, and what it learned of the states
there would spoil it for those at the end.

Start (FOAT): the first segment whose linear CKA with the input, averaged over clients, each weighted alike,
falls below a threshold; the last possible window where none does.

A stage moves on when it has converged or used its share of rounds, whichever comes first. Devices disclose no
loss, so convergence is read from their estimates g_r of S^2 grad f: the stage has converged when

    sum_r p_r < -2 sqrt(sum_r p_r^2),    p_r = (S^-1 g_r) . (S^-1 g_{r-1}),    over its rounds, at least 5,

as far from a minimum successive gradients agree, and around one they point against each other (G. Pflug,
1990; J. Chee and P. Toulis, arXiv 1710.06382, who ask for a sum below 0). The estimates' noise is independent
between rounds, so it adds nothing to a product on average, unlike to |S^-1 g_r|^2; but few scalars about many
parameters let the sum cross 0 by chance, and the root is the deviation that it would have by chance alone.

Shares: the last stage is promised `last_share` of the job's rounds; the rest is divided evenly among the
windows that are left, so rounds that a converged stage did not need go to those after it.

Pure functions of values, without clock or randomness: a restarted cloud that reads the same ChainState goes
on at the same round of the same stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from device_runtime.errors import OptionError

if TYPE_CHECKING:
    from cloud_service.job import Job
    from device_runtime.bundle import Bundle

LEAST_ROUNDS = 5  # before a stage may count as converged
_DEVIATIONS = 2.0  # so far below 0 chance alone takes the sum once in 44 times
SCORED_EXAMPLES = 64  # at least, where a device has them: of few, CKA is close to 1 whatever a segment does


@dataclass(frozen=True)
class ChainSettings:
    """The part of a job that decides the schedule."""

    segments: int  # K, those before the head
    window: int  # Q, 1 .. K
    global_weight: float  # lambda of the global loss
    threshold: float  # T of the mean CKA
    start: int | None  # None: from the devices' scores
    rounds: int  # of the job
    last_share: float  # of the rounds, for the last stage


@dataclass(frozen=True)
class ChainState:
    """Where the schedule stands before a round. `first_round` and `rounds` are the stage's own."""

    start: int
    stage: int
    first_round: int
    rounds: int
    agreement: float = 0.0  # the sum of inner products so far
    squares: float = 0.0  # and of their squares
    scores: tuple[float, ...] = ()  # mean CKA of every segment; empty: not asked for


@dataclass(frozen=True)
class Stage:
    """What a stage trains. `exit_segment` 0: the whole chain runs, and the head learns too."""

    number: int
    count: int  # stages in all
    segments: tuple[int, ...]
    exit_segment: int
    global_weight: float

    @property
    def is_last(self) -> bool:
        return self.number == self.count - 1

    def trains(self, segment: int) -> bool:
        """Whether the stage changes a segment; the head is the one after all others."""
        return segment in self.segments or (self.exit_segment == 0 and segment > self.segments[-1])


def of_job(job: Job, bundle: Bundle) -> ChainSettings | None:
    """The schedule of a job over a bundle; None when its estimator is another.

    Raises OptionError when the bundle cannot be trained so: correct the job, or export another bundle.
    """
    if job.estimator != "chainfed":
        return None
    segments = bundle.manifest.chain.segments
    settings = ChainSettings(
        segments=segments,
        window=min(job.chain_window, segments),
        global_weight=job.chain_global_weight,
        threshold=job.chain_threshold,
        start=job.chain_start,
        rounds=job.rounds,
        last_share=job.chain_last_share,
    )
    _check_bundle(settings, bundle)
    if settings.start is not None and settings.start > last_start(settings):
        raise OptionError(
            f"job: chain_start = {settings.start}: a window of {settings.window} fits into this bundle's "
            f"{segments} segments up to {last_start(settings)}"
        )
    scored = wanted_scores(settings, 0) > 0
    if scored and segments > max(1, bundle.layout.parameters // 100):
        raise OptionError(
            f'job: chain_start = "auto" asks for {segments} scores, more than the 1 % of the adapter\'s '
            f"{bundle.layout.parameters} parameters that a device discloses: give chain_start a number"
        )
    least = stage_count(settings, settings.start or 0) + scored
    if job.rounds < least:
        raise OptionError(f"job: rounds = {job.rounds}: this chain has up to {least} stages, each needs one")
    return settings


def _check_bundle(settings: ChainSettings, bundle: Bundle) -> None:
    frozen = [k for k in range(settings.segments) if k not in bundle.layout.segments]
    if frozen:
        numbers = ", ".join(map(str, frozen))
        raise OptionError(
            f'job: estimator = "chainfed" trains every segment, but this bundle\'s adapter has no parameters '
            f"in {numbers}: export one with --adapter bottleneck or lora"
        )
    has = {method.name for method in bundle.manifest.chain.methods}
    wanted = {f"auxiliary_{k}" for k in range(settings.window, settings.segments)}
    if settings.global_weight > 0.0 and not wanted <= has:
        raise OptionError(
            "job: chain_global_weight needs a bundle with auxiliary methods: export it with --adapter "
            "bottleneck, or set chain_global_weight = 0"
        )


def last_start(settings: ChainSettings) -> int:
    """The first segment of the last window that fits."""
    return settings.segments - settings.window


def wanted_scores(settings: ChainSettings | None, round_number: int) -> int:
    """Scores that a round asks of each device: K in round 0 where the start is not known yet, else 0."""
    if settings is None or round_number > 0 or settings.start is not None or last_start(settings) == 0:
        return 0
    return settings.segments


def mean_scores(scores: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The mean of every segment's score, each client weighted alike, cut to [0, 1]; sums in the given order.

    `scores` holds one row of K scores a client.
    """
    means = (sum(column) / len(scores) for column in zip(*scores, strict=True))
    return tuple(min(1.0, max(0.0, mean)) for mean in means)


def chosen_start(settings: ChainSettings, scores: Sequence[float]) -> int:
    """The job's start; else FOAT's: the first segment below the threshold, at most the last window's."""
    if settings.start is not None:
        return settings.start
    below = (k for k, score in enumerate(scores) if score < settings.threshold)
    return min(next(below, last_start(settings)), last_start(settings))


def begin(settings: ChainSettings, round_number: int, scores: tuple[float, ...] = ()) -> ChainState:
    """The schedule before its first round of directions, which is `round_number`."""
    first = ChainState(chosen_start(settings, scores), 0, round_number, 0, scores=scores)
    return _entered(settings, first)


def stage_count(settings: ChainSettings, start: int) -> int:
    """Windows and the last stage; one in all where the first window holds everything from `start` on."""
    windows = _windows(settings, start)
    return windows if windows == 1 else windows + 1


def stage_of(settings: ChainSettings, state: ChainState) -> Stage:
    """What the schedule trains now."""
    count = stage_count(settings, state.start)
    first, end = state.start + state.stage, state.start + state.stage + settings.window
    if state.stage == count - 1:
        first, end = state.start, settings.segments
    whole = end == settings.segments
    return Stage(
        number=state.stage,
        count=count,
        segments=tuple(range(first, end)),
        exit_segment=0 if whole else end,
        global_weight=0.0 if whole else settings.global_weight,
    )


def after_round(
    settings: ChainSettings, state: ChainState, round_number: int, agreement: float
) -> tuple[ChainState, str]:
    """The schedule after a round, and why its stage ended: "converged", "share" of rounds used, or "".

    `agreement` is the inner product of the round's estimate with that of the stage's round before, 0 for
    the first. The last stage ends with the job.
    """
    state = replace(
        state, agreement=state.agreement + agreement, squares=state.squares + agreement * agreement
    )
    used = round_number + 1 - state.first_round
    if stage_of(settings, state).is_last:
        return state, ""
    ended = ""
    if used >= state.rounds:
        ended = "share"
    elif used >= LEAST_ROUNDS and state.agreement < -_DEVIATIONS * math.sqrt(state.squares):
        ended = "converged"
    if ended:
        moved = replace(
            state, stage=state.stage + 1, first_round=round_number + 1, agreement=0.0, squares=0.0
        )
        state = _entered(settings, moved)
    return state, ended


def _windows(settings: ChainSettings, start: int) -> int:
    return last_start(settings) - start + 1


def _entered(settings: ChainSettings, state: ChainState) -> ChainState:
    """The state with its stage's share of the rounds that are left: at least 1 for it and each later one."""
    left = settings.rounds - state.first_round
    later = stage_count(settings, state.start) - state.stage - 1
    if later == 0:
        return replace(state, rounds=left)
    promised = math.ceil(settings.last_share * settings.rounds)
    windows = _windows(settings, state.start) - state.stage
    share = math.ceil((left - promised) / windows)
    return replace(state, rounds=max(1, min(share, left - later)))
