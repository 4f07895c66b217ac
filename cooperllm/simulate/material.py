"""What a simulation learns from: read, kept apart, dealt to devices, written as files for processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from cooperllm.simulate import shards
from cooperllm.simulate.shards import Sharding
from device_runtime.errors import InputError, OptionError
from device_runtime.examples import Example, label_names, read_examples


@dataclass(frozen=True)
class Sources:
    """Which files, or which Hugging Face data set, to learn from. Without any: the embedded intents."""

    data: Path | None = None
    public_data: Path | None = None
    eval: Path | None = None
    hf_dataset: str | None = None
    text_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class Pools:
    """Examples before they are dealt. `public` is None where it is to be drawn from `private`."""

    name: str
    private: list[Example]
    public: list[Example] | None
    eval: list[Example]

    @property
    def class_names(self) -> list[str]:
        """All classes that private or public data name, sorted: the order of the head's outputs."""
        return label_names([*self.private, *(self.public or [])])


@dataclass(frozen=True)
class Material:
    """One seed's data: disjoint public and eval parts, and one private shard for each device."""

    public: list[Example]
    shards: list[list[Example]]
    eval: list[Example]

    @property
    def private(self) -> list[Example]:
        """All private examples, device by device: for the oracle alone, which no federation could compute."""
        return [example for part in self.shards for example in part]


def load(sources: Sources) -> Pools:
    """Read what `sources` names. Raises InputError, one line that says what to correct: show it and stop."""
    if sources.hf_dataset is not None:
        if sources.data is not None:
            raise OptionError("--hf-dataset and --data: use one of them")
        return _load_hugging_face(sources)
    if sources.data is None:
        if sources.eval is not None or sources.public_data is not None:
            raise OptionError(
                "--eval and --public-data need --data FILE, the private examples that belong to them"
            )
        folder = Path(str(resources.files("cooperllm") / "data"))
        return _read(
            "embedded intents", folder / "private.tsv", folder / "public.tsv", folder / "eval.tsv", sources
        )
    if sources.eval is None:
        raise OptionError(
            "--data needs --eval FILE, labelled examples that neither devices nor cloud learn from"
        )
    return _read(sources.data.name, sources.data, sources.public_data, sources.eval, sources)


def _read(name: str, private: Path, public: Path | None, evaluation: Path, sources: Sources) -> Pools:
    columns = {"text_column": sources.text_column, "label_column": sources.label_column}
    common = None if public is None else read_examples(public, **columns)
    pools = Pools(name, read_examples(private, **columns), common, [])
    names = pools.class_names
    if len(names) < 2:
        raise InputError(
            f"{private}: all examples have the same label; a classifier needs at least two classes"
        )
    if len(names) > 1000:
        raise InputError(
            f"{private}: {len(names)} different labels; say which column holds the label (--label-column)"
        )
    return Pools(name, pools.private, pools.public, read_examples(evaluation, names, **columns))


def _load_hugging_face(sources: Sources) -> Pools:
    try:
        datasets = import_module("datasets")  # optional, heavy to import, wanted by this option alone
    except ModuleNotFoundError:
        raise OptionError("--hf-dataset needs the Python package datasets: pip install datasets") from None
    identifier = sources.hf_dataset or ""
    name, _, configuration = identifier.partition(":")
    try:
        splits = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # its hub client raises whatever the network stack does
        reason = str(error).splitlines()[0][:200]
        raise InputError(
            f"--hf-dataset {identifier}: cannot be loaded ({reason}); download it and use --data"
        ) from None
    held = next((part for part in ("validation", "test") if part in splits), None)
    if "train" not in splits or held is None:
        raise InputError(f"--hf-dataset {identifier}: needs the splits train and validation or test")
    return Pools(identifier, _rows(splits["train"], sources), None, _rows(splits[held], sources))


def _rows(split: Any, sources: Sources) -> list[Example]:
    text = sources.text_column or next(
        (name for name in ("text", "sentence") if name in split.column_names), "text"
    )
    label = sources.label_column or "label"
    for column in (text, label):
        if column not in split.column_names:
            raise OptionError(
                f"no column {column} among {', '.join(split.column_names)}: use --text-column, --label-column"
            )
    names = getattr(split.features[label], "names", None)
    return [
        Example(str(row[text]), names[row[label]] if names else str(row[label]))
        for row in split
        if str(row[text]).strip()
    ]


def prepare(
    pools: Pools, devices: int, public: int, sharding: Sharding, seed: int, drop_duplicates: bool = False
) -> Material:
    """Deal the pools for one seed: `public` public examples, the rest private, one shard a device.

    Raises InputError when a text is in two parts, or when there is too little data: show it and stop.
    """
    if public < 1:
        raise OptionError(f"--public {public}: use at least 1")
    private, evaluation = pools.private, pools.eval
    if pools.public is None:
        if drop_duplicates:
            private = shards.without_texts(private, evaluation)
        drawn, private = shards.draw_public(private, public, seed)
    else:
        distinct = {shards.normalised(example.text) for example in pools.public}
        drawn = pools.public if public >= len(distinct) else shards.draw_public(pools.public, public, seed)[0]
        if drop_duplicates:
            # Against the whole public file: which of its texts are drawn must not change what the devices
            # hold.
            private = shards.without_texts(private, pools.public, evaluation)
    shards.check_disjoint({"public": drawn, "private": private, "eval": evaluation})
    return Material(drawn, shards.shard(private, devices, sharding, seed), evaluation)


def write_examples(path: Path, examples: Sequence[Example]) -> Path:
    """Write a .tsv that `read_examples` reads back; tabs and line ends inside a text become blanks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["text\tlabel", *(f"{' '.join(example.text.split())}\t{example.label}" for example in examples)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
