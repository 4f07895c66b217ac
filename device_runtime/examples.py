"""A device's own examples: read from a CSV, TSV or JSONL file, and split into a training and a held-out part.

Imports the standard library only. A file is read whole and strictly: whoever typed its name is there to mend
it, so the first thing wrong ends the reading with the file, the line and what to do. (An embedding app hands
over `Example`s of its own making; what is wrong with those is counted during the session instead.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_runtime.errors import ExamplesError
from device_runtime.example_files import Columns, read_rows

HELD_OUT_ONE_IN = 10
"""One example in this many is held out, on average."""


@dataclass(frozen=True)
class Example:
    """One private example: a text and the name of its class."""

    text: str
    label: str


def read_examples(
    path: str | Path,
    class_names: Sequence[str] | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
) -> list[Example]:
    """Read every example of a `.csv`, `.tsv`, `.jsonl` or `.ndjson` file (UTF-8), in the file's order.

    `text_column` and `label_column` name columns of the header (or keys of the JSON objects); several text
    columns are joined with a space, for instance "title,description". Numbers are positions counted from 1,
    for files without a header. Without them the usual names (text, sentence, ...; label, class, ...) are
    looked for in the first line; where they are not there the file has no header, and its two columns are
    text and label.

    Raises ExamplesError, which names the file, the line and what to do, and OptionError when the columns
    asked for make no sense: show either and stop.
    """
    path = Path(path)
    rows = read_rows(path, Columns(text_column, label_column))
    known = None if class_names is None else frozenset(class_names)
    examples = []
    for line, text, label in rows:
        if not text:
            raise ExamplesError("the text is empty; fill it in or remove the line", str(path), line)
        if not label:
            raise ExamplesError("the label is empty; fill it in or remove the line", str(path), line)
        if known is not None and label not in known:
            raise ExamplesError(_unknown_label(line, label, class_names or ()), str(path), line)
        examples.append(Example(text, label))
    if not examples:
        raise ExamplesError("no examples; put one on each line, a text and its label", str(path))
    return examples


def label_names(examples: Iterable[Example]) -> list[str]:
    """Name the labels that occur, sorted: the classes, in order, where a file alone defines the task."""
    return sorted({example.label for example in examples})


def is_held_out(text: str) -> bool:
    """Say whether the device keeps this text for evaluation: the first 8 bytes of its UTF-8 bytes' SHA-256,
    as a big-endian integer, are a multiple of 10.

    It depends on the text alone, so an example never changes sides when others come or go, and copies of a
    text are always on the same side.
    """
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


def split_held_out(examples: Iterable[Example]) -> tuple[list[Example], list[Example]]:
    """Split into (training, held out), each in the order given; see `is_held_out`. Either may be empty."""
    train: list[Example] = []
    held_out: list[Example] = []
    for example in examples:
        (held_out if is_held_out(example.text) else train).append(example)
    return train, held_out


def _unknown_label(line: int, label: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    header = " (if this line is a header, name its columns)" if line == 1 else ""
    return f'label "{label[:80]}" is not one of {shown}; correct it or remove the line{header}'
