"""Where FedSPZO cuts: least cost times variance, within what the job and the disclosure budget leave."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cloud_service import estimators, split
from cloud_service.directions import Guides
from cloud_service.job import Job, from_table
from cloud_service.plan import CohortMember, RoundSettings
from cloud_service.rounds import directions_within
from device_runtime.bundle import Bundle
from device_runtime.errors import OptionError
from tests.cloud_service.small_bundle import small_layout, write_bundle
from tests.cloud_service.small_service import small_job


def product(costs: list[float], counts: list[int], cut: int, p2: int) -> float:
    variance = sum(counts[:cut]) + sum(counts[cut:]) / p2
    return variance * (sum(costs[:cut]) + p2 * sum(costs[cut:]))


def test_the_choice_is_the_best_of_all() -> None:
    costs, counts = [5.0, 5.0, 5.0, 1.0], [10, 10, 10, 200]
    boundary, per_prefix = split.choose(costs, counts, 24)
    best = min(product(costs, counts, cut, p2) for cut in (1, 2, 3) for p2 in (1, 2, 3, 4, 6, 8, 12, 24))
    assert product(costs, counts, boundary, per_prefix) == best
    assert (boundary, per_prefix) == (3, 12)
    assert best < product(costs, counts, 1, 1)  # plain SPSA


def test_what_the_job_says_stays() -> None:
    assert split.choose([1.0, 1.0, 1.0], [4, 4, 4], 6, boundary=1, per_prefix=2) == (1, 2)
    assert split.choose([9.0, 1.0, 1.0], [1, 9, 9], 6, per_prefix=3) == (1, 3)


def test_a_block_without_parameters_is_never_cut_off() -> None:
    assert split.choose([1.0, 9.0, 1.0], [0, 4, 4], 2)[0] == 2


def job(bundle: Bundle, **changes: object) -> Job:
    values = {"estimator": "fedspzo", "active_segments": "all", **changes}
    return dataclasses.replace(small_job(bundle), **values)  # type: ignore[arg-type]


def test_a_job_is_resolved_from_its_bundle(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    found = split.resolved(job(bundle, directions_per_task=8), bundle)
    assert found.boundary is not None
    assert 1 <= found.boundary <= bundle.manifest.chain.segments
    assert found.per_prefix is not None
    assert 8 % found.per_prefix == 0
    plain = job(bundle, estimator="isotropic")
    assert split.resolved(plain, bundle) is plain
    with pytest.raises(OptionError, match="two segments that learn"):
        split.resolved(job(bundle, active_segments="head"), bundle)
    with pytest.raises(OptionError, match="both sides"):
        split.resolved(job(bundle, boundary=9), bundle)


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
    named = estimators.direction(chosen, Guides(), small_layout(), 100, count).expanded()
    assert [(item.seed, item.prefix_seed) for item in named] == [
        (100, 100), (101, 100), (102, 100), (103, 100), (104, 104), (105, 104),
    ]  # fmt: skip
