"""Sharding is seeded, loses nothing, and keeps private, public and eval apart."""

from collections import Counter

import pytest

from cooperllm.simulate import shards
from device_runtime.errors import InputError, OptionError
from device_runtime.examples import Example

POOL = [Example(f"text number {number}", "abc"[number % 3]) for number in range(240)]


@pytest.mark.parametrize("kind", ["iid", "dirichlet:0.5", "dirichlet:100"])
def test_every_example_goes_to_exactly_one_device(kind: str) -> None:
    parts = shards.shard(POOL, 8, shards.Sharding.parse(kind), seed=3)
    assert len(parts) == 8
    assert Counter(example for part in parts for example in part) == Counter(POOL)
    assert min(map(len, parts)) >= shards.MIN_SHARD_EXAMPLES
    assert parts == shards.shard(POOL, 8, shards.Sharding.parse(kind), seed=3)
    assert parts != shards.shard(POOL, 8, shards.Sharding.parse(kind), seed=4)


def test_iid_sizes_differ_by_at_most_one() -> None:
    sizes = {len(part) for part in shards.shard(POOL[:101], 8, shards.Sharding(), seed=0)}
    assert sizes == {12, 13}


def test_a_small_alpha_skews_the_classes() -> None:
    def largest_share(kind: str) -> float:
        parts = shards.shard(POOL, 4, shards.Sharding.parse(kind), seed=1)
        shares = [max(Counter(example.label for example in part).values()) / len(part) for part in parts]
        return sum(shares) / len(shares)

    assert largest_share("dirichlet:0.2") > 0.6
    assert largest_share("dirichlet:1000") < 0.45


@pytest.mark.parametrize(
    "text", ["", "IID", "dirichlet", "dirichlet:0", "dirichlet:-1", "dirichlet:nan", "dirichlet:x"]
)
def test_unknown_sharding_is_one_line(text: str) -> None:
    with pytest.raises(OptionError, match='use "iid" or "dirichlet:'):
        shards.Sharding.parse(text)


def test_public_draw_takes_all_copies_with_it() -> None:
    pool = POOL + [Example(example.text.upper() + "  ", example.label) for example in POOL]
    public, private = shards.draw_public(pool, 40, seed=5)
    assert len(public) == 40
    assert len({shards.normalised(example.text) for example in public}) == 40
    assert len(private) == len(pool) - 80
    shards.check_disjoint({"public": public, "private": private})
    assert public != shards.draw_public(pool, 40, seed=6)[0]


def test_public_draw_leaves_something_private() -> None:
    with pytest.raises(OptionError, match="leave some for the devices"):
        shards.draw_public(POOL, 240, seed=0)


def test_shared_texts_are_refused_by_name() -> None:
    with pytest.raises(
        InputError, match=r'1 text\(s\) are in both the private and the eval data.*"text number 7"'
    ):
        shards.check_disjoint(
            {"private": POOL, "eval": [Example("Text  NUMBER 7", "a"), Example("new", "a")]}
        )
    assert len(shards.without_texts(POOL, [Example("Text  NUMBER 7", "a")])) == 239


def test_too_few_examples_say_what_to_do() -> None:
    with pytest.raises(InputError, match="use fewer devices or more data"):
        shards.shard(POOL[:20], 2, shards.Sharding(), seed=0)
    with pytest.raises(InputError, match="use a larger alpha"):
        shards.shard(POOL, 18, shards.Sharding(0.01), seed=0)


def test_shuffling_keeps_texts_and_class_counts_but_not_the_pairs() -> None:
    parts = shards.shard(POOL, 4, shards.Sharding(0.3), seed=2)
    shuffled = shards.with_shuffled_labels(parts, seed=2)
    assert [[e.text for e in part] for part in shuffled] == [[e.text for e in part] for part in parts]
    assert Counter(e.label for part in shuffled for e in part) == Counter(e.label for e in POOL)
    kept = sum(a == b for p, q in zip(parts, shuffled, strict=True) for a, b in zip(p, q, strict=True))
    assert 0.2 < kept / len(POOL) < 0.5
