"""The embedded requests: as many, as distinct and as thin as their README says."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path

import cooperllm
from device_runtime.examples import Example, label_names, read_examples

FOLDER = Path(cooperllm.__file__).parent / "data"
CLASSES = [
    "alarm_timer",
    "calendar_reminders",
    "calls_messages",
    "lists_notes",
    "media",
    "smart_home",
    "travel",
    "weather",
]
SPLITS = ("private", "public", "eval")


def read(split: str) -> list[Example]:
    return read_examples(FOLDER / f"{split}.tsv", class_names=CLASSES)


def plain(text: str) -> str:
    return re.sub(r"[^\w\s]", "", text.lower()).strip()


def shared_words(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / len(first | second)


def test_sizes_and_classes_are_those_of_the_readme() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for split in SPLITS:
        examples = read(split)
        assert label_names(examples) == CLASSES
        assert f"| `{split}.tsv` | {len(examples):,} |" in readme
    assert list(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)) == CLASSES


def test_private_and_eval_have_enough_of_every_class() -> None:
    assert min(Counter(example.label for example in read("private")).values()) >= 80
    assert min(Counter(example.label for example in read("eval")).values()) >= 25


def test_public_is_thin_in_half_of_the_classes() -> None:
    counts = Counter(example.label for example in read("public"))
    assert 100 <= sum(counts.values()) <= 128
    assert sorted(counts.values())[:2] == [3, 3]
    assert sorted(counts.values())[2:4] == [7, 7]
    assert counts["lists_notes"] == counts["smart_home"] == 3


def test_files_are_clean_text() -> None:
    for split in SPLITS:
        content = (FOLDER / f"{split}.tsv").read_bytes().decode("utf-8")
        lines = content.split("\n")
        assert lines[0] == "text\tlabel"
        assert lines[-1] == ""
        assert "\r" not in content
        for line in lines[1:-1]:
            text, _ = line.split("\t")
            assert text == " ".join(text.split())
            assert text.isprintable()
            assert 1 <= len(text.split()) <= 30


def test_files_are_shuffled() -> None:
    for split in SPLITS:
        labels = [example.label for example in read(split)]
        same_as_next = sum(first == second for first, second in pairwise(labels))
        assert same_as_next < 0.3 * len(labels)


def test_no_text_occurs_twice() -> None:
    counts = Counter(plain(example.text) for split in SPLITS for example in read(split))
    assert [text for text, count in counts.items() if count > 1] == []


def test_no_two_texts_are_nearly_the_same() -> None:
    words = [(frozenset(plain(example.text).split()), split) for split in SPLITS for example in read(split)]
    close = []
    for (first, first_split), (second, second_split) in combinations(words, 2):
        limit = 0.6 if "eval" in (first_split, second_split) and first_split != second_split else 0.8
        # The smaller set over the larger bounds the ratio, and settles most pairs without an intersection.
        sizes = sorted((len(first), len(second)))
        if sizes[0] > limit * sizes[1] and shared_words(first, second) > limit:
            close.append((sorted(first), sorted(second)))
    assert close == []
