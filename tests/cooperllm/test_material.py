"""Data preparation: the embedded set, files, public draws, and what is refused."""

from pathlib import Path

import pytest

from cooperllm.simulate import material, shards
from cooperllm.simulate.material import Sources
from cooperllm.simulate.shards import Sharding
from device_runtime.errors import InputError, OptionError
from device_runtime.examples import Example, read_examples


def table(path: Path, examples: list[Example]) -> Path:
    return material.write_examples(path, examples)


def numbered(word: str, count: int) -> list[Example]:
    return [Example(f"{word} {number}", ("no", "yes")[number % 2]) for number in range(count)]


def test_embedded_data_are_disjoint_and_enough_for_eight_devices() -> None:
    pools = material.load(Sources())
    assert pools.public is not None
    prepared = material.prepare(pools, 8, 128, Sharding(0.5), seed=0)
    assert len(prepared.shards) == 8
    assert len(prepared.public) <= 128
    assert sorted({example.label for example in prepared.eval}) == pools.class_names
    shards.check_disjoint({"public": prepared.public, "private": prepared.private, "eval": prepared.eval})


def test_files_are_read_drawn_from_and_written_back(tmp_path: Path) -> None:
    sources = Sources(data=table(tmp_path / "pool.tsv", numbered("pool", 120)),
                      eval=table(tmp_path / "eval.tsv", numbered("eval", 10)))  # fmt: skip
    pools = material.load(sources)
    assert (pools.name, pools.class_names, pools.public) == ("pool.tsv", ["no", "yes"], None)
    prepared = material.prepare(pools, 4, 20, Sharding(), seed=7)
    assert (len(prepared.public), len(prepared.private), len(prepared.eval)) == (20, 100, 10)
    again = read_examples(material.write_examples(tmp_path / "deep" / "public.tsv", prepared.public))
    assert again == prepared.public


def test_tabs_and_line_ends_in_texts_survive_as_blanks(tmp_path: Path) -> None:
    path = material.write_examples(
        tmp_path / "odd.tsv", [Example("a\tb\nc", "no"), Example('say "text"', "yes")]
    )
    assert read_examples(path) == [Example("a b c", "no"), Example('say "text"', "yes")]


def test_a_text_in_two_files_is_refused_or_dropped_from_the_private_part(tmp_path: Path) -> None:
    pool = numbered("pool", 60)
    sources = Sources(data=table(tmp_path / "pool.tsv", pool), eval=table(tmp_path / "eval.tsv", pool[:3]))
    pools = material.load(sources)
    with pytest.raises(InputError, match="--drop-duplicates"):
        material.prepare(pools, 2, 1, Sharding(), seed=0)
    prepared = material.prepare(pools, 2, 1, Sharding(), seed=0, drop_duplicates=True)
    assert len(prepared.private) == 56


def test_a_separate_public_file_is_drawn_from_and_never_reaches_devices(tmp_path: Path) -> None:
    sources = Sources(data=table(tmp_path / "pool.tsv", numbered("pool", 60)),
                      public_data=table(tmp_path / "public.tsv", numbered("public", 30)),
                      eval=table(tmp_path / "eval.tsv", numbered("eval", 4)))  # fmt: skip
    pools = material.load(sources)
    prepared = material.prepare(pools, 2, 10, Sharding(), seed=0)
    assert len(prepared.public) == 10
    assert all(example.text.startswith("public") for example in prepared.public)
    assert len(prepared.private) == 60
    assert len(material.prepare(pools, 2, 500, Sharding(), seed=0).public) == 30


def test_labels_outside_the_classes_name_file_and_line(tmp_path: Path) -> None:
    odd = [Example("new", "no"), Example("odd", "maybe")]
    pool = table(tmp_path / "pool.tsv", numbered("pool", 60))
    sources = Sources(data=pool, eval=table(tmp_path / "eval.tsv", odd))
    with pytest.raises(InputError, match=r'eval\.tsv, line 3: label "maybe" is not one of no, yes'):
        material.load(sources)


def test_one_class_is_no_task(tmp_path: Path) -> None:
    same = [Example(f"text {number}", "only") for number in range(40)]
    sources = Sources(data=table(tmp_path / "pool.tsv", same), eval=table(tmp_path / "eval.tsv", same[:1]))
    with pytest.raises(InputError, match="at least two classes"):
        material.load(sources)


def test_hugging_face_and_file_exclude_each_other() -> None:
    with pytest.raises(OptionError, match="use one of them"):
        material.load(Sources(hf_dataset="sst2", data=Path("x.tsv")))
