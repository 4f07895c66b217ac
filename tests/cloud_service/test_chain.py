"""ChainFed's schedule as values: starts, windows, exits, shares, convergence, and what a bundle must have."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cloud_service import chain
from cloud_service.chain import ChainSettings, ChainState
from cloud_service.job import Job, from_table
from device_runtime.bundle import Bundle
from device_runtime.errors import OptionError
from device_runtime.zo.layout import Layout
from tests.cloud_service.small_bundle import chain_layout, write_bundle
from tests.cloud_service.small_service import small_job

# (round, stage, segments, exit, global weight, why the stage ended after it)
Event = tuple[int, int, tuple[int, ...], int, float, str]


def settings(**changes: object) -> ChainSettings:
    found = ChainSettings(
        segments=4, window=2, global_weight=0.5, threshold=0.9, start=0, rounds=20, last_share=0.25
    )
    return dataclasses.replace(found, **changes)  # type: ignore[arg-type]


def events(
    chosen: ChainSettings, state: ChainState, agreements: dict[int, float] | None = None
) -> list[Event]:
    """The first and the last round of every stage, in order; a round agrees with 1 unless said otherwise."""
    found: list[Event] = []
    for number in range(state.first_round, chosen.rounds):
        stage = chain.stage_of(chosen, state)
        first = number == state.first_round
        state, ended = chain.after_round(chosen, state, number, (agreements or {}).get(number, 1.0))
        if first or ended or number == chosen.rounds - 1:
            found.append(
                (number, stage.number, stage.segments, stage.exit_segment, stage.global_weight, ended)
            )
    return found


def test_the_schedule_is_this_list_of_events() -> None:
    """20 rounds, 5 of them promised to the last stage: 15 among three windows."""
    assert events(settings(), chain.begin(settings(), 0)) == [
        (0, 0, (0, 1), 2, 0.5, ""),
        (4, 0, (0, 1), 2, 0.5, "share"),
        (5, 1, (1, 2), 3, 0.5, ""),
        (9, 1, (1, 2), 3, 0.5, "share"),
        (10, 2, (2, 3), 0, 0.0, ""),  # a window that ends at K needs no exit
        (14, 2, (2, 3), 0, 0.0, "share"),
        (15, 3, (0, 1, 2, 3), 0, 0.0, ""),
        (19, 3, (0, 1, 2, 3), 0, 0.0, ""),
    ]


def test_rounds_that_a_converged_stage_did_not_need_go_to_those_after_it() -> None:
    chosen = settings(rounds=60)  # 15 promised, so 15 for each window
    # Agreement turns in round 4, and by round 10 it outweighs what came before: 4 - 21 < -2 sqrt(4 + 63).
    # The second stage agrees in no round; the third one does and does not, as noise would.
    turned = {**dict.fromkeys(range(4, 16), -3.0), **{number: (-1.0) ** number for number in range(16, 60)}}
    assert events(chosen, chain.begin(chosen, 0), turned) == [
        (0, 0, (0, 1), 2, 0.5, ""),
        (10, 0, (0, 1), 2, 0.5, "converged"),
        (11, 1, (1, 2), 3, 0.5, ""),
        (15, 1, (1, 2), 3, 0.5, "converged"),  # the least number of rounds
        (16, 2, (2, 3), 0, 0.0, ""),
        (44, 2, (2, 3), 0, 0.0, "share"),
        (45, 3, (0, 1, 2, 3), 0, 0.0, ""),
        (59, 3, (0, 1, 2, 3), 0, 0.0, ""),  # the last stage ends with the job, whatever its estimates say
    ]


def test_shares_of_what_is_left() -> None:
    chosen = settings(rounds=60)
    state = chain.begin(chosen, 0)
    assert state.rounds == 15
    for number in range(5):
        state, ended = chain.after_round(chosen, state, number, -1.0)
    assert (ended, state.stage, state.first_round) == ("converged", 1, 5)
    assert (state.agreement, state.squares) == (0.0, 0.0)
    assert state.rounds == 20  # (60 - 5 - 15) / 2


@pytest.mark.parametrize(
    ("rounds", "share"), [(4, 0.25), (5, 0.0), (5, 1.0), (7, 0.9), (100, 0.0), (23, 0.25)]
)
def test_every_stage_gets_a_round_and_no_round_is_left_over(rounds: int, share: float) -> None:
    chosen = settings(rounds=rounds, last_share=share)
    found = events(chosen, chain.begin(chosen, 0))
    assert sorted({stage for _, stage, _, _, _, _ in found}) == [0, 1, 2, 3]
    assert found[-1][0] == rounds - 1
    last = next(number for number, stage, *_ in found if stage == 3)
    assert rounds - last >= min(share * rounds, rounds - 3)


def test_the_start_is_the_first_segment_below_the_threshold() -> None:
    auto = settings(start=None)
    assert chain.chosen_start(auto, (0.95, 0.89, 0.99, 0.2)) == 1
    assert chain.chosen_start(auto, (0.9, 0.9, 0.9, 0.9)) == 2  # none is below: the last possible window
    assert chain.chosen_start(auto, (0.99, 0.98, 0.97, 0.1)) == 2  # a window of two does not fit from 3 on
    assert chain.chosen_start(auto, (0.1, 0.1, 0.1, 0.1)) == 0
    assert chain.chosen_start(settings(start=1), ()) == 1


def test_every_client_weighs_alike_in_the_scores() -> None:
    assert chain.mean_scores([(1.0, 0.5), (0.5, 0.0), (0.0, 0.25)]) == (0.5, 0.25)
    assert chain.mean_scores([(1.0 + 1e-9, -1e-9)]) == (1.0, 0.0)


def test_scores_are_asked_for_once_and_only_where_they_decide() -> None:
    assert chain.wanted_scores(settings(start=None), 0) == 4
    assert chain.wanted_scores(settings(start=None), 1) == 0
    assert chain.wanted_scores(settings(start=2), 0) == 0
    assert chain.wanted_scores(settings(start=None, window=4), 0) == 0  # there is one window
    assert chain.wanted_scores(None, 0) == 0


def test_a_late_start_has_fewer_stages() -> None:
    state = chain.begin(settings(start=None), 1, (0.99, 0.99, 0.5, 0.5))
    assert (state.start, state.first_round, state.scores) == (2, 1, (0.99, 0.99, 0.5, 0.5))
    # The one window is all that there is from the start on: it is the last stage, end to end.
    assert events(settings(start=None), state) == [
        (1, 0, (2, 3), 0, 0.0, ""),
        (19, 0, (2, 3), 0, 0.0, ""),
    ]


def test_a_window_of_all_segments_is_end_to_end_from_the_first_round_on() -> None:
    chosen = settings(window=4)
    stage = chain.stage_of(chosen, chain.begin(chosen, 0))
    assert (stage.count, stage.segments, stage.exit_segment, stage.global_weight) == (1, (0, 1, 2, 3), 0, 0.0)
    assert chain.begin(chosen, 0).rounds == 20


# --- over a bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "small", chain_layout())


def job(bundle: Bundle, **changes: object) -> Job:
    values = {
        "estimator": "chainfed",
        "active_segments": "all",
        "chain_window": 1,
        "chain_global_weight": 0.0,
    }
    return dataclasses.replace(small_job(bundle), **{**values, **changes})  # type: ignore[arg-type]


def test_a_job_over_a_bundle(bundle: Bundle) -> None:
    assert chain.of_job(small_job(bundle), bundle) is None
    found = chain.of_job(job(bundle), bundle)
    assert found == ChainSettings(2, 1, 0.0, 0.8, None, 4, 0.25)
    wide = chain.of_job(job(bundle, chain_window=9), bundle)
    assert wide is not None
    assert wide.window == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chain_global_weight": 0.2}, "--adapter bottleneck, or set chain_global_weight = 0"),
        ({"chain_start": 2}, "up to 1"),
        ({"rounds": 3}, "up to 4 stages"),  # scores, two windows, end to end
    ],
)
def test_what_does_not_fit_a_bundle_is_one_line(
    bundle: Bundle, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(OptionError, match=said) as caught:
        chain.of_job(job(bundle, **changes), bundle)
    assert "\n" not in str(caught.value)


def test_a_global_loss_needs_no_branch_where_no_window_has_an_exit(bundle: Bundle) -> None:
    assert chain.of_job(job(bundle, chain_global_weight=0.2, chain_window=2), bundle) is not None


def test_an_adapter_too_small_for_its_scores_needs_a_start(tmp_path: Path) -> None:
    small = write_bundle(tmp_path / "small")  # 60 parameters: a device discloses no 2 scalars about them
    with pytest.raises(OptionError, match="give chain_start a number"):
        chain.of_job(job(small), small)
    assert chain.of_job(job(small, chain_start=0), small) is not None


def test_every_segment_needs_parameters(bundle: Bundle, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other")
    frozen = dataclasses.replace(other, layout=_without(other, 0))
    with pytest.raises(OptionError, match="no parameters in 0"):
        chain.of_job(job(bundle), frozen)


def _without(bundle: Bundle, segment: int) -> Layout:
    tensors = [t for t in bundle.layout.tensors if t.segment != segment]
    return Layout.build([(t.name, t.segment, t.shape, t.exponent) for t in tensors])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"active_segments": "head"}, 'active_segments = "all"'),
        ({"chain_window": 0}, "chain_window"),
        ({"chain_global_weight": -0.1}, "chain_global_weight"),
        ({"chain_threshold": 1.1}, "chain_threshold"),
        ({"chain_start": "later"}, "a whole number"),
        ({"chain_start": -1}, "chain_start"),
        ({"chain_last_share": float("nan")}, "chain_last_share"),
    ],
)
def test_keys_of_a_job(change: dict[str, object], said: str) -> None:
    good = {"name": "x", "bundle": "b", "public": "p", "estimator": "chainfed", "active_segments": "all"}
    assert from_table({**good, "chain_start": "auto"}).chain_start is None
    read = from_table({**good, "chain_start": 2})
    assert from_table(read.to_json_object()) == read
    with pytest.raises(OptionError, match=said):
        from_table({**good, **change})
