from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

class CoreError(RuntimeError):
    """A call was refused or failed. `status` is its name; the message says in one line what to do."""

    status: str

@final
class Batch:
    """A padded batch of exactly `batch_examples` rows; rows of weight 0 are padding and count nothing.

    Shapes: input_ids and attention_mask (B, T) int64, labels (B,) int64, weights (B,) float64, all
    contiguous. Where the targets are tokens, labels are (B, T): at a token the one that it should predict,
    -100 for none. T is a length that the program takes. The arrays are kept, not copied: do not change them
    while a call runs. With `hidden`, (B, T, hidden size) float32, the chain is entered at `first_segment`:
    what comes before it is not run and must not be perturbed.
    """

    def __init__(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        labels: NDArray[np.int64],
        weights: NDArray[np.float64],
        hidden: NDArray[np.float32] | None = None,
        first_segment: int = 0,
    ) -> None: ...

@final
class Direction:
    """z = isotropic_scale * s (.) v(seed) + sum_j c_j * u_j on its active segments, zero elsewhere.

    `guides` are pairs (index of set_guide, c_j); `active_segments` ascend, and none means those of the call.
    In segments before `boundary` the noise is v(prefix_seed); neighbours that agree there share those runs.
    """

    def __init__(
        self,
        seed: int,
        isotropic_scale: float = 1.0,
        guides: Sequence[tuple[int, float]] = (),
        active_segments: Sequence[int] = (),
        boundary: int = 0,
        prefix_seed: int = 0,
    ) -> None: ...

@final
class Measurement:
    """What `measure` answers, one float64 a direction: mean losses in nats, rho in nats a unit of z'."""

    @property
    def rho(self) -> NDArray[np.float64]: ...
    @property
    def loss_plus(self) -> NDArray[np.float64]: ...
    @property
    def loss_minus(self) -> NDArray[np.float64]: ...

@final
class Counters:
    """Runs and nanoseconds since the start or `reset_counters`.

    `segment_runs` has K + 1 entries, the head's last. `forward_ns` is spent inside the program, `perturb_ns`
    in changing the adapter, `total_ns` in whole calls. `auxiliary_runs` and `pair_runs` have K entries; a
    pair runs a segment for both signs, which `segment_runs` does not count. `segment_ns`, K + 1 entries, is
    spent in both kinds of runs, `segment_perturb_ns` in changing the adapter (`perturb_ns` is its sum) and
    `segment_check_ns` in checking directions before that. `method_loads` counts methods whose weights were
    packed into memory.
    """

    @property
    def embed_runs(self) -> int: ...
    @property
    def segment_runs(self) -> list[int]: ...
    @property
    def pair_runs(self) -> list[int]: ...
    @property
    def segment_ns(self) -> list[int]: ...
    @property
    def segment_perturb_ns(self) -> list[int]: ...
    @property
    def segment_check_ns(self) -> list[int]: ...
    @property
    def auxiliary_runs(self) -> list[int]: ...
    @property
    def method_loads(self) -> int: ...
    @property
    def forward_ns(self) -> int: ...
    @property
    def perturb_ns(self) -> int: ...
    @property
    def total_ns(self) -> int: ...

@final
class Plan:
    """The fewest segment runs that give a set of losses: the nodes of the trie of their label strings.

    labels[e, segment] is 0 for the adapter as it is, +(d + 1) or -(d + 1) for direction d added or
    subtracted there. Depth first; or `by_level`, streaming order: every run of a segment before any of the
    next, label by label, and at the head state by state.
    Shapes: labels (evaluations, K + 1) int32.
    """

    def __init__(self, labels: NDArray[np.int32], by_level: bool = False) -> None: ...
    @property
    def runs(self) -> list[tuple[int, int, int, int, list[int]]]:
        """(segment, label, from_slot, to_slot, evaluations below it), in the order in which they happen."""
    @property
    def slots(self) -> int:
        """How many hidden states are held at once."""

@final
class Core:
    """A mapped program, the adapter that it reads, and the local update over them."""

    def __init__(
        self,
        program_path: str,
        layout: Sequence[tuple[int, int, int, int, Sequence[int]]],
        segments: int,
        batch_examples: int,
        max_tokens: int,
        hidden_size: int,
        threads: int = 1,
        head_tokens: int = 0,
        vocabulary: int = 0,
    ) -> None:
        """Map the program and check every method against the layout. None is loaded by that: each is by the
        first call that runs it.

        Where the targets are tokens, `head_tokens` says how many of them the program's head takes at once,
        and `vocabulary` of how many tokens they may be.

        `layout` rows are (segment, offset, count, grid exponent, shape), ordered by offset; segments 0..K-1
        are the blocks, K = `segments` is the head. The adapter starts as zeros.

        Raises CoreError: PROGRAM_FAILED (not readable), PROGRAM_MISMATCH (not this layout's program),
        BAD_ARGUMENT, OUT_OF_MEMORY. The caller drops the bundle, or frees memory and tries again.
        """

    @property
    def adapter(self) -> NDArray[np.float32]:
        """The n parameters that the program reads: a view, not a copy. Keep values on the grid."""
    @property
    def classes(self) -> int:
        """C, the width of the head's logits; 0 where the targets are tokens."""
    @property
    def counters(self) -> Counters:
        """A copy of the counters."""
    def reset_counters(self) -> None:
        """Start counting from zero."""
    def set_scale(self, scale: NDArray[np.float32] | None) -> None:
        """Set s, one positive value a parameter; None is 1. The array is kept, not copied."""
    def set_guide(self, index: int, segment: int, values: NDArray[np.float32]) -> None:
        """Set guide `index` on one segment; it is zero where it was never set.

        `values` has one entry a parameter of the segment. The array is kept, not copied, until it is
        replaced or cleared.
        """
    def clear_guide(self, index: int, segment: int) -> None:
        """Let go of one slice: the guide is zero there again."""
    def clear_guides(self, expected: int = 0) -> None:
        """Forget every guide. Directions may name the indices below `expected` before they are set."""
    def losses(
        self,
        batches: Sequence[Batch],
        directions: Sequence[Direction],
        epsilon: float,
        labels: NDArray[np.int32],
        exit_segment: int = 0,
        global_weight: float = 0.0,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (sum of weight * loss, sum of weight * count) of every evaluation, over all batches.

        Where a direction acts is said by `labels` alone (see Plan), one row an evaluation; in segments that
        do not run they are 0. Exit, weight and what is raised: as in `measure`.
        """
    def measure(
        self,
        batches: Sequence[Batch],
        directions: Sequence[Direction],
        epsilon: float,
        active_segments: Sequence[int],
        exit_segment: int = 0,
        global_weight: float = 0.0,
    ) -> Measurement:
        """Return rho = (L(theta + epsilon z') - L(theta - epsilon z')) / (2 epsilon) of every direction.

        L is the mean loss in nats, sum of weight * loss over sum of weight * count, added in float64 in
        order of batch and row. z' is the rounded direction. The adapter is afterwards the same, bit for bit,
        also on an error.

        With an `exit_segment` b (1 .. K; 0 is K) the head takes what leaves segment b - 1. With a
        `global_weight` a row's loss is ChainFed's (arXiv 2604.06819), local + global_weight * global, where
        global is the head's loss behind the auxiliary branches b .. K - 1; the row counts as often as before.

        Raises CoreError: BELOW_GRID (the message names the epsilon that would do), OUT_OF_RANGE and
        NOT_FINITE (before the first change), LOSS_NOT_FINITE, STOPPED, PROGRAM_FAILED, BAD_ARGUMENT. The
        caller reports it.
        """
    def begin(
        self,
        batches: Sequence[Batch],
        directions: Sequence[Direction],
        epsilon: float,
        active_segments: Sequence[int],
        exit_segment: int = 0,
        global_weight: float = 0.0,
    ) -> list[int]:
        """Begin what `measure` does, in streaming order; return the segments that will run, in order.

        For each of them: `set_guide` of that segment, `advance`, `clear_guide`; then `finish`, or at any time
        `abandon`. The answer is `measure`'s, bit for bit. Between these calls the adapter is as it was; it,
        the scale and the batches must stay so. `evaluate`, `logits` and `hidden` may be called in between;
        `losses`, `measure`, `slopes`, `update` and `clear_guides` are refused.

        Memory until the end, in bytes: for every batch, B * T * hidden size * 4 for every distinct string of
        labels without its head (two a direction, where directions share nothing), and what `embed` gives.

        Raises CoreError as `measure`, for what can be told without guides. The caller reports it.
        """
    def advance(self) -> None:
        """Check and run the next segment for all directions and batches; it needs guides of it alone.

        Raises CoreError: OUT_OF_RANGE and NOT_FINITE (before this segment's first change),
        LOSS_NOT_FINITE, STOPPED, PROGRAM_FAILED, after which nothing has begun; BAD_ARGUMENT where nothing
        has begun or all have run. The adapter is as it was. The caller reports it.
        """
    def finish(self) -> Measurement:
        """Return what `measure` returns, and free the memory.

        Raises CoreError: BELOW_GRID (the message names an epsilon that is large enough), LOSS_NOT_FINITE;
        BAD_ARGUMENT where segments have not run, which ends nothing. The caller reports it.
        """
    def abandon(self) -> None:
        """End what has begun, if anything, and free its memory."""
    def slopes(
        self,
        batches: Sequence[Batch],
        directions: Sequence[Direction],
        epsilon: float,
        exit_segment: int = 0,
    ) -> NDArray[np.float64]:
        """Return the slope of L along z', (dL/dtheta) . z', of directions that are active in the head alone.

        No difference of losses: the method `head_gradient` runs once a batch, whatever the number of
        directions. Shapes: (directions,) float64. L, z' and what is raised are as in `measure`; BAD_ARGUMENT
        also where the program has no such method.
        """
    @property
    def has_head_gradient(self) -> bool:
        """Whether `slopes` can be asked for."""
    def evaluate(
        self, batches: Sequence[Batch], exit_segment: int = 0, global_weight: float = 0.0
    ) -> tuple[float, float, int]:
        """Return (sum of weight * loss, sum of weight * count, correct targets in rows of non-zero weight).

        Exit and weight as in `measure`; what is correct is said by the head at the exit.

        Raises CoreError: LOSS_NOT_FINITE, STOPPED, PROGRAM_FAILED, BAD_ARGUMENT. The caller reports it.
        """
    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits. Shapes: (B, C) float32. Raises what `evaluate` does, BAD_ARGUMENT where the
        targets are tokens.
        """
    def hidden(self, batch: Batch, segment: int) -> NDArray[np.float32]:
        """Return the hidden state that enters a segment (K: the head), for a later `Batch.hidden`.

        Shapes: (B, T, hidden size) float32. Raises what `evaluate` does.
        """
    def update(
        self,
        epsilon: float,
        update_seed: int,
        active_segments: Sequence[int],
        directions: Sequence[Direction],
        coefficients: Sequence[float],
        guides: Sequence[tuple[int, float]] = (),
    ) -> int:
        """Step: theta + sum_j coefficient_j * z'_j + sum_k c_k * u_k, rounded stochastically.

        Outside the active segments nothing moves. Returns how many parameters met the bound. Raises
        CoreError: NOT_FINITE, OUT_OF_RANGE, BAD_ARGUMENT, with the adapter unchanged. The caller drops the
        update.
        """
    def load_methods(self) -> None:
        """Load now what a run of the whole chain needs. Raises CoreError: PROGRAM_FAILED, PROGRAM_MISMATCH,
        OUT_OF_MEMORY. The caller drops the bundle, or frees memory and tries again.
        """
    def set_pair_tokens(self, tokens: int) -> None:
        """Measure both signs in one forward on batches of up to so many tokens a row; 0, the default: never.

        Directions that share more than the unperturbed beginning run one sign at a time all the same. The
        last bits of a scalar may differ between the two forms.
        """
    def has_pairs(self, first_segment: int, exit_segment: int) -> bool:
        """Whether segments first_segment .. exit_segment - 1 all have the method `pair_k`."""
    def unload_except(self, segments: Sequence[int], auxiliaries: Sequence[int] = ()) -> None:
        """Free all segments but these, and all auxiliary branches but those of `auxiliaries`.

        embed and head stay. What is needed again is loaded again by the call that runs it.
        """
    @property
    def context_bytes(self) -> int:
        """What `embed` gives a batch besides its hidden state, at most: `begin` keeps it for each batch."""
    @property
    def planned_bytes(self) -> int:
        """The memory that all methods share for their activations, as the program was planned."""
    @property
    def loaded_methods(self) -> list[str]:
        """The names of the methods whose weights are in memory, in the order of the chain."""
    @property
    def auxiliary_segments(self) -> list[int]:
        """The segments whose adapters can run alone, as the method `auxiliary_k`."""
    def stop(self) -> None:
        """End what runs with STOPPED, and every later call until `resume`. From any thread."""
    def resume(self) -> None:
        """Take calls again after `stop`."""
    def poison_arena(self, before_every_run: bool) -> None:
        """For tests: have every run first overwrite the memory that methods share."""
