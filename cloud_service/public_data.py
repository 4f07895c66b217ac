"""What a job does with its public data: version 0, scale, guides and scores (see preparation.PublicSide)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from cloud_service.directions import Float32, Float64
from cloud_service.job import Job
from cloud_service.plan import RoundState
from cloud_service.preparation import NoPublicSide, PublicSide
from device_runtime.bundle import Bundle
from device_runtime.examples import Example, read_examples

if TYPE_CHECKING:
    from cloud_service.guides import Objective
    from export.model import Model


def public_side(job: Job, bundle: Bundle) -> PublicSide:
    """The public side of a job; one without torch where the job names neither public nor evaluation data.

    Raises ExamplesError for a file that cannot be read as examples of the bundle's classes: show it, correct
    it.
    """
    if not job.public and not job.eval:
        return NoPublicSide()
    public = read_examples(job.public, bundle.known_labels) if job.public else []
    evaluation = read_examples(job.eval, bundle.known_labels) if job.eval else []
    return PublicData(job, bundle, public, evaluation)


class PublicData:
    """Computes with the bundle's torch model, which is loaded when it is first needed.

    All of it is end to end and over all of the job's active segments, for a chain (chain.py) as well. Version
    0 is then the best start of the model that results, and the accuracies of all rounds compare. The scale is
    one artifact for the whole job: it preconditions noise, and with any positive one the estimates are
    unbiased. The public gradient is computed while the round before is out, when nobody knows yet whether
    that round ends a stage; of it a round uses the segments that it trains. That the stage's loss is another
    is a bias like any other of public data: it is measured, and lowers the gradient's weight (rectify.py).
    """

    def __init__(
        self, job: Job, bundle: Bundle, public: Sequence[Example], evaluation: Sequence[Example]
    ) -> None:
        self._job, self._bundle = job, bundle
        self._public, self._evaluation = public, evaluation

    def start(self, adapter: Float32) -> Float32:
        from cloud_service.public_fit import fit_head_first

        if self._job.start != "public_fit" or not self._public:
            return adapter
        head = len(self._model.segments)

        def over(segments: tuple[int, ...]) -> Objective:
            return self._objective if segments == self._segments else self._over(self._public, segments)

        return fit_head_first(over, self._segments, head, adapter, self._fitting_scale).adapter

    def scale(self, adapter: Float32) -> Float32 | None:
        return self._fitting_scale if self._job.scale == "public" and self._public else None

    def sampled(self, state: RoundState) -> Iterator[tuple[int, Float64]]:
        """Nothing where the job has no use for it: isotropic directions and a guide weight of 0."""
        unused = self._job.estimator != "zgr" and self._job.guide_weight == 0.0
        if unused or not self._public:
            return
        scale = self.scale(state.adapter)
        # Which examples speak about a segment changes from round to round.
        yield from self._sampled.sampled(state.adapter, scale, state.version)

    def evaluate(self, adapter: Float32) -> tuple[float, int, int] | None:
        return self._scored.score(adapter) if self._evaluation else None

    @cached_property
    def _model(self) -> Model:
        from cloud_service.guides import open_model

        return open_model(self._bundle, self._job.model)

    @cached_property
    def _segments(self) -> tuple[int, ...]:
        return self._job.segments_of(self._bundle)

    @cached_property
    def _objective(self) -> Objective:
        return self._over(self._public, self._segments)

    @cached_property
    def _sampled(self) -> Objective:
        if self._job.guide_sampling == "whole":
            return self._objective
        return self._over(self._public, self._segments, len(self._segments))

    @cached_property
    def _scored(self) -> Objective:
        return self._over(self._evaluation, self._segments)

    def _over(self, examples: Sequence[Example], segments: Sequence[int], parts: int = 1) -> Objective:
        from cloud_service.guides import Objective

        return Objective(self._model, self._bundle, examples, segments, parts)

    @cached_property
    def _fitting_scale(self) -> Float32:
        """At the bundle's adapter, so that a restarted service finds the same one."""
        return self._objective.scale(self._bundle.adapter)
