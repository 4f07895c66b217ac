"""The guides of a round as the conductor needs them: announced or sampled before it opens, at a level for
each member of its cohort, and as they were received when it closes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cloud_service import compression, opening
from cloud_service.compression import AS_SAMPLED
from cloud_service.directions import Float32, Guides, Received
from cloud_service.levels import level_of, same_for
from cloud_service.plan import CohortMember, RoundPlan, RoundState
from cloud_service.preparation import Preparation
from cloud_service.shelf import Shelf


@dataclass(frozen=True)
class RoundGuides:
    """Guides by round. Not for two threads at once."""

    preparation: Preparation
    shelf: Shelf

    def of_round(self, number: int, state: RoundState) -> tuple[Guides, Float32 | None]:
        """What a round's guide is called, and its values; where it is still to be sampled, the last one's."""
        of = number
        if self.shelf.guides(number) is None:
            announced = self.preparation.job.guide_staleness == 0 and self.preparation.announce_guides(
                number, state
            )
            of = number - 1 if announced else number
        if of == number:
            self.preparation.sample_guides(number, state)
        found = self.shelf.guides(number)
        assert found is not None  # announced or sampled
        return found, next(iter(self.shelf.received(of, [AS_SAMPLED]).values()), None)

    def levelled(self, number: int, members: list[CohortMember]) -> list[CohortMember]:
        """The members, each with the level of compression at which it receives the round's guide."""
        with self.preparation.store.transaction() as connection:
            found = {
                member.client_id: level_of(
                    connection, self.shelf, self.preparation.job, number, member.client_id
                )
                for member in members
            }
        if self.preparation.job.directions == "shared":
            found = same_for(found)
        return [replace(member, guide_level=found[member.client_id]) for member in members]

    def facts(self, number: int, plan: RoundPlan) -> dict[str, Any]:
        """What a round's guide was sampled from, and at which level each client gets it; for operators."""
        if not plan.levels():
            return {}
        before = self.preparation.job.guide_staleness if number else 0
        levels = {task.client_id: task.guide_level for task in plan.tasks if plan.guide_of(task) is not None}
        return {"guide": {"staleness": before, "sampled_from": number - before, "levels": levels}}

    def keep_alignment(self, number: int, plan: RoundPlan, received: Received) -> None:
        """The cosine of what devices received with what was sampled, by level; for operators."""
        sampled = next(iter(self.shelf.received(number, [AS_SAMPLED]).values()), None)
        if sampled is None or not plan.levels():
            return
        found = {}
        for level in plan.levels():
            guide = plan.guides.at(level)
            assert guide is not None  # tasks name it
            found[str(level)] = compression.cosine(sampled, received[guide.name])
        with self.preparation.store.transaction() as connection:
            opening.keep_decided(connection, number, {"alignment": found})

    def received(self, plan: RoundPlan) -> Received:
        """What devices received, by name; as it was sampled where no device was sent any."""
        return self.shelf.received(plan.round, plan.levels() or (AS_SAMPLED,))
