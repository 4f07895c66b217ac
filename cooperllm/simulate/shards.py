"""Who holds which example: public, eval and one private shard a device. Pure functions and a seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from device_runtime.errors import InputError, OptionError
from device_runtime.examples import Example

MIN_SHARD_EXAMPLES = 12
"""A device trains on batches of at least 8 distinct examples, after holding out about a tenth."""

_DRAWS = 1000


@dataclass(frozen=True)
class Sharding:
    """How private examples are spread over devices: `alpha` is Dirichlet's concentration, None for IID."""

    alpha: float | None = None

    @staticmethod
    def parse(text: str) -> Sharding:
        """Read "iid" or "dirichlet:ALPHA". Raises OptionError: show it, correct the option."""
        if text == "iid":
            return Sharding()
        kind, _, number = text.partition(":")
        try:
            alpha = float(number)
        except ValueError:
            alpha = 0.0
        if kind != "dirichlet" or not 0.0 < alpha < 1e6:
            raise OptionError(
                f'--shards {text}: use "iid" or "dirichlet:" and a positive number, such as dirichlet:0.5'
            )
        return Sharding(alpha)

    def __str__(self) -> str:
        return "iid" if self.alpha is None else f"dirichlet:{self.alpha:g}"


def normalised(text: str) -> str:
    """Return the form in which two texts count as the same: case folded, runs of white space as one blank."""
    return " ".join(text.casefold().split())


def check_disjoint(parts: Mapping[str, Sequence[Example]]) -> None:
    """Refuse parts that share a text, because what is measured on them would flatter the result.

    Raises InputError that names both parts, how many texts and one of them: show it, mend the files.
    """
    seen: dict[str, str] = {}
    shared: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, examples in parts.items():
        for text in dict.fromkeys(normalised(example.text) for example in examples):
            if text in seen:
                shared[seen[text], name].append(text)
            else:
                seen[text] = name
    for (first, second), texts in shared.items():
        raise InputError(
            f"{len(texts)} text(s) are in both the {first} and the {second} data, for instance "
            f'"{texts[0][:60]}": remove them from one, or pass --drop-duplicates to leave them out of the '
            "private data"
        )


def without_texts(examples: Sequence[Example], *others: Sequence[Example]) -> list[Example]:
    """Return the examples whose text is in none of `others`, in their order."""
    taken = {normalised(example.text) for part in others for example in part}
    return [example for example in examples if normalised(example.text) not in taken]


def draw_public(pool: Sequence[Example], count: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Draw `count` distinct texts as public data; return (public, the rest), which has no copy of them.

    Raises OptionError when so many would leave nothing private: show it, correct the option.
    """
    first: dict[str, Example] = {}
    for example in pool:
        first.setdefault(normalised(example.text), example)
    texts = list(first)
    if count >= len(texts):
        raise OptionError(
            f"--public {count}: the data have {len(texts)} distinct texts; leave some for the devices"
        )
    order = np.random.default_rng([seed, 1]).permutation(len(texts))
    public = [first[texts[index]] for index in sorted(order[:count])]
    return public, without_texts(pool, public)


def shard(examples: Sequence[Example], devices: int, sharding: Sharding, seed: int) -> list[list[Example]]:
    """Deal examples to devices; every example goes to exactly one, and every device gets at least 12.

    IID deals a shuffled deck. Dirichlet(alpha) spreads every class by its own draw of proportions (Hsu et
    al. 2019, arXiv 1909.06335), drawn again while a device would get too few.

    Raises InputError when there is no such dealing: show it, give more data, fewer devices or a larger alpha.
    """
    if devices < 1:
        raise OptionError(f"--devices {devices}: use at least 1")
    if len(examples) < devices * MIN_SHARD_EXAMPLES:
        raise InputError(
            f"{len(examples)} private examples for {devices} devices: each needs {MIN_SHARD_EXAMPLES}; "
            "use fewer devices or more data"
        )
    random = np.random.default_rng([seed, 2])
    if sharding.alpha is None:
        deck = random.permutation(len(examples))
        return [[examples[index] for index in sorted(deck[device::devices])] for device in range(devices)]
    for _ in range(_DRAWS):
        owners = _dirichlet_owners(examples, devices, sharding.alpha, random)
        sizes = np.bincount(owners, minlength=devices)
        if sizes.min() >= MIN_SHARD_EXAMPLES:
            return [
                [examples[int(index)] for index in np.flatnonzero(owners == device)]
                for device in range(devices)
            ]
    raise InputError(
        f"--shards {sharding}: none of {_DRAWS} draws gave every device {MIN_SHARD_EXAMPLES} examples; "
        "use a larger alpha, fewer devices or more data"
    )


def _dirichlet_owners(
    examples: Sequence[Example], devices: int, alpha: float, random: np.random.Generator
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    owners = np.zeros(len(examples), dtype=np.int64)
    labels = np.array([example.label for example in examples])
    for label in sorted(set(labels.tolist())):
        members = random.permutation(np.flatnonzero(labels == label))
        edges = np.cumsum(random.dirichlet(np.full(devices, alpha)))
        # The last edge is 1 only up to rounding; clipping keeps the last device from overflowing.
        places = np.minimum(np.searchsorted(edges * len(members), np.arange(len(members)) + 0.5), devices - 1)
        owners[members] = places
    return owners


def with_shuffled_labels(shards: Sequence[Sequence[Example]], seed: int) -> list[list[Example]]:
    """Return the same texts on the same devices with the labels of all of them permuted together.

    What is left of the private data then is how often each class occurs: a federation that does as well
    with it learns nothing from its devices.
    """
    labels = [example.label for part in shards for example in part]
    shuffled = iter(np.random.default_rng([seed, 3]).permutation(len(labels)))
    return [[replace(example, label=labels[next(shuffled)]) for example in part] for part in shards]
