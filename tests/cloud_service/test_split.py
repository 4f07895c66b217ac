"""Where FedSPZO cuts: least cost times variance, within what the job and the disclosure budget leave."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from cloud_service import estimators, split
from cloud_service.job import Job, from_table
from cloud_service.plan import CohortMember, RoundSettings
from cloud_service.rounds import directions_within
from device_runtime.bundle import Bundle
from device_runtime.errors import OptionError
from tests.cloud_service.small_bundle import small_layout, write_bundle
from tests.cloud_service.small_service import small_job

COUNTS = (10, 10, 10, 200)


def product(costs: Sequence[float], counts: Sequence[int], cut: int, p2: int) -> float:
    variance = sum(counts[:cut]) + sum(counts[cut:]) / p2
    return variance * (sum(costs[:cut]) + p2 * sum(costs[cut:]))


def test_the_choice_is_the_best_of_all() -> None:
    costs = [5.0, 5.0, 5.0, 1.0]
    boundary, per_prefix = split.choose(split.SplitSettings((), COUNTS, 24), costs)
    best = min(product(costs, COUNTS, cut, p2) for cut in (1, 2, 3) for p2 in (1, 2, 3, 4, 6, 8, 12, 24))
    assert product(costs, COUNTS, boundary, per_prefix) == best
    assert (boundary, per_prefix) == (3, 12)
    assert best < product(costs, COUNTS, 1, 1)  # plain SPSA


def test_what_the_job_says_stays() -> None:
    settings = split.SplitSettings((1.0, 1.0, 1.0), (4, 4, 4), 6, boundary=1, per_prefix=2)
    found = split.decide(settings, [[9.0, 1.0, 1.0]])
    assert found == split.Split(1, 2, by="job")
    assert split.choose(split.SplitSettings((), (1, 9, 9), 6, per_prefix=3), [9.0, 1.0, 1.0]) == (1, 3)


def test_a_block_without_parameters_is_never_cut_off() -> None:
    assert split.choose(split.SplitSettings((), (0, 4, 4), 2), [1.0, 9.0, 1.0])[0] == 2


def test_times_overrule_the_count_where_they_save_a_tenth() -> None:
    settings = split.SplitSettings((1.0, 1.0, 1.0, 1.0), COUNTS, 24)
    counted = split.choose(settings, settings.flops)
    near = [[5.0, 5.2, 4.9, 5.1]] * 3
    assert (split.decide(settings, near).boundary, split.decide(settings, near).per_prefix) == counted
    assert split.decide(settings, near).by == "count"
    slow = [5.0, 5.0, 5.0, 0.01]  # one run before the head costs 500 of the head
    found = split.decide(settings, [slow, [2 * ms for ms in slow], [500.0, 500.0, 500.0, 1.0]])
    assert (found.boundary, found.per_prefix) == (3, 24) != counted
    assert found.by == "times"
    assert found.reports == 3
    # Shares by the median, in milliseconds of the device in the middle.
    assert found.segment_ms == pytest.approx([2 * ms for ms in slow], rel=1e-3)


@pytest.mark.parametrize(
    "says", [[], [1.0] * 3, [0.0, 1.0, 1.0, 1.0], [math.inf, 1.0, 1.0, 1.0], [math.nan, 1.0, 1.0, 1.0]]
)
def test_a_report_that_does_not_time_every_segment_says_nothing(says: list[float]) -> None:
    settings = split.SplitSettings((1.0, 1.0, 1.0, 1.0), COUNTS, 24)
    assert split.decide(settings, [says]) == split.decide(settings)
    assert split.decide(settings, [says, [5.0, 5.0, 5.0, 0.01]]).reports == 1


def test_one_device_that_lies_moves_no_split() -> None:
    settings = split.SplitSettings((1.0, 1.0, 1.0, 1.0), COUNTS, 24)
    honest = [[5.0, 5.0, 5.0, 5.0]] * 4
    liar = [1e30, 1e-30, 1e-30, 1e-30]
    assert split.decide(settings, [*honest, liar]).by == "count"


def job(bundle: Bundle, **changes: object) -> Job:
    values = {"estimator": "fedspzo", "active_segments": "all", **changes}
    return dataclasses.replace(small_job(bundle), **values)  # type: ignore[arg-type]


def test_a_job_is_read_with_its_bundle(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    settings = split.of_job(job(bundle, directions_per_task=8), bundle)
    assert settings == split.SplitSettings((1.0, 1.0, 1.0), (30, 16, 14), 8)
    assert split.of_job(job(bundle, estimator="isotropic"), bundle) is None
    with pytest.raises(OptionError, match="two segments that learn"):
        split.of_job(job(bundle, active_segments="head"), bundle)
    with pytest.raises(OptionError, match="both sides"):
        split.of_job(job(bundle, boundary=9), bundle)


def test_the_job_file_takes_auto_or_numbers() -> None:
    table = {"name": "x", "bundle": "b", "public": "p", "estimator": "fedspzo"}
    assert from_table({**table, "boundary": "auto"}).boundary is None
    read = from_table({**table, "boundary": 2, "per_prefix": 4})
    assert (read.boundary, read.per_prefix) == (2, 4)
    assert from_table(read.to_json_object()) == read
    with pytest.raises(OptionError, match="multiple of per_prefix"):
        from_table({**table, "per_prefix": 5})


def test_a_client_of_a_small_budget_measures_what_it_may_of_a_group() -> None:
    chosen = RoundSettings(
        "fedspzo", "per_device", 12, 8, 1e-2, 0.1, 5, active_segments=(0, 1), boundary=1, per_prefix=4
    )
    count = directions_within(CohortMember("a", 64, max_scalars_per_round=6), chosen, small_layout())
    named = estimators.direction(chosen, None, small_layout(), 100, count).expanded()
    assert [(item.seed, item.prefix_seed) for item in named] == [
        (100, 100), (101, 100), (102, 100), (103, 100), (104, 104), (105, 104),
    ]  # fmt: skip
