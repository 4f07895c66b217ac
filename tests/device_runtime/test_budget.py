"""What a device refuses to disclose, and how it keeps count."""

from __future__ import annotations

import pytest

from device_runtime.budget import (
    ROUNDS_REMEMBERED,
    Budget,
    Disclosure,
    charge,
    check_directions,
    check_evaluation,
    check_examples,
    disclosed_in,
    disclosure_of,
)
from device_runtime.errors import BudgetExceeded, NotEnoughExamples, OptionError, TaskRefused, UnsupportedTask
from protos import federation_pb2 as pb

HEAD = 6
GUIDE = b"g" * 32


def task(
    *directions: pb.Direction, active: tuple[int, ...] = (0, 5, HEAD), batch_examples: int = 8, steps: int = 1
) -> pb.DirectionsTask:
    step = pb.Step(batch_examples=batch_examples, directions=directions)
    guides = [pb.Guide(sha256=GUIDE, segments=[5, HEAD])]
    return pb.DirectionsTask(epsilon=0.01, active_segments=active, guides=guides, steps=[step] * steps)


def check(
    wanted: pb.DirectionsTask, disclosed: tuple[int, int] = (0, 0), train_examples: int = 100, **budget: int
) -> Disclosure:
    return check_directions(wanted, Budget(**budget).resolve(75_000), disclosed, HEAD, train_examples)


def directions(count: int, *segments: int, **fields: object) -> pb.Direction:
    return pb.Direction(count=count, isotropic_scale=1.0, active_segments=segments, **fields)  # type: ignore[arg-type]


def test_defaults_are_one_percent_and_64_in_the_head_and_8_examples() -> None:
    assert Budget().resolve(75_268) == Budget(752, 64, 8)
    assert Budget().resolve(50).max_scalars_per_round == 1
    assert Budget().resolve(22_000_000).max_scalars_per_round == 4096
    assert Budget(5).resolve(75_268).max_scalars_per_round == 5
    message = Budget().message(None)  # before there is a bundle
    assert (
        message.max_scalars_per_round,
        message.max_head_scalars_per_round,
        message.min_batch_examples,
    ) == (64, 64, 8)


@pytest.mark.parametrize("numbers", [{"max_scalars_per_round": -1}, {"min_batch_examples": 7}])
def test_a_budget_that_protects_nothing_cannot_be_made(numbers: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        Budget(**numbers)


def test_up_to_the_limit_and_not_beyond_over_all_steps_and_tasks() -> None:
    assert check(task(directions(250), steps=3)) == Disclosure(750, 0)
    for wanted, before in ((task(directions(251), steps=3), 0), (task(directions(250), steps=3), 1)):
        with pytest.raises(BudgetExceeded, match="limit 750") as refusal:
            check(wanted, (before, 0))
        assert refusal.value.status == "REFUSED_DISCLOSURE_BUDGET"
    check(task(directions(250), steps=3), (0, 64))


def test_a_count_that_would_wrap_is_counted_in_full() -> None:
    with pytest.raises(BudgetExceeded):
        check(task(*[directions(2**32 - 1)] * 3))


def test_head_scalars_are_those_of_directions_that_touch_nothing_else() -> None:
    guide_only = pb.Direction(count=3, active_segments=[0, HEAD])
    guide_only.guides.add(guide_sha256=GUIDE, coefficient=1.0)
    elsewhere = pb.Direction(count=5, active_segments=[0, 5, HEAD])
    elsewhere.guides.add(guide_sha256=GUIDE, coefficient=1.0)
    unknown = pb.Direction(count=7)  # without noise or guide: zero everywhere
    found = disclosure_of(task(directions(2, HEAD), directions(4), guide_only, elsewhere, unknown), HEAD)
    assert found == Disclosure(2 + 4 + 3 + 5 + 7, 2 + 3 + 7)
    assert disclosure_of(task(directions(4), active=(HEAD,)), HEAD) == Disclosure(4, 4)


def test_the_head_has_its_own_limit() -> None:
    assert check(task(directions(64, HEAD), directions(600))) == Disclosure(664, 64)
    with pytest.raises(BudgetExceeded, match="head alone"):
        check(task(directions(65, HEAD)))
    with pytest.raises(BudgetExceeded, match="head alone"):
        check(task(directions(10), active=(HEAD,)), (60, 55))


def test_small_batches_and_small_data_sets_are_refused() -> None:
    with pytest.raises(BudgetExceeded, match="batch of 7 examples"):
        check(task(directions(1), batch_examples=7))
    with pytest.raises(NotEnoughExamples, match="fewer than 8 distinct training examples") as refusal:
        check(task(directions(1)), train_examples=7)
    assert isinstance(refusal.value, TaskRefused)
    check(task(directions(1), batch_examples=64), train_examples=8)  # takes all it has
    with pytest.raises(BudgetExceeded, match="at least 32"):
        check(task(directions(1), batch_examples=31), min_batch_examples=32)
    with pytest.raises(NotEnoughExamples, match="held-out"):
        check_examples(7, Budget(), "held-out")


def test_a_task_without_steps_or_directions_is_no_task() -> None:
    for empty in (task(directions(1), steps=0), task()):
        with pytest.raises(UnsupportedTask):
            check(empty)


def test_the_account_adds_up_by_round_and_forgets_only_the_oldest() -> None:
    account: dict[str, list[int]] = {}
    for round_number in range(200):
        account = charge(account, round_number, Disclosure(3, 1))
        account = charge(account, round_number, Disclosure(4, 0))
    assert disclosed_in(199, account) == [7, 1]
    assert disclosed_in(200, account) == [0, 0]
    assert len(account) == ROUNDS_REMEMBERED
    with pytest.raises(BudgetExceeded, match="too long ago"):
        disclosed_in(5, account)
    assert disclosed_in(0, {}) == [0, 0]


def test_one_evaluation_a_round_unless_it_repeats_itself() -> None:
    check_evaluation(3, "aa", {})
    check_evaluation(3, "aa", {"3": "aa"})
    check_evaluation(4, "bb", {"3": "aa"})
    with pytest.raises(BudgetExceeded, match="one evaluation a round"):
        check_evaluation(3, "bb", {"3": "aa"})
