"""A device's own examples: read from a CSV, TSV or JSONL file, and split into a training and a held-out part.

Imports the standard library only. A file is read whole and strictly: whoever typed its name is there to mend it, so the
first thing wrong ends the reading with the file, the line and what to do. (An embedding app hands over `Example`s of
its own making; what is wrong with those is counted during the session instead.)
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_runtime.errors import ExamplesError, OptionError

MAX_RECORD_BYTES = 1_000_000
"""A longer line, or quoted CSV record, is refused: no text that a person typed is that long."""

HELD_OUT_ONE_IN = 10
"""One example in this many is held out, on average."""

TEXT_COLUMNS = ("text", "sentence", "utterance", "query", "phrase", "content", "review", "title,description")
LABEL_COLUMNS = ("label", "class", "intent", "category", "target", "sentiment", "class index")


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

    `text_column` and `label_column` name columns of the header (or keys of the JSON objects); several text columns are
    joined with a space, for instance "title,description". Numbers are positions counted from 1, for files without a
    header. Without them the usual names (text, sentence, ...; label, class, ...) are looked for in the first line;
    where they are not there the file has no header, and its two columns are text and label.

    Raises ExamplesError, which names the file, the line and what to do, and OptionError when the columns asked for make
    no sense: show either and stop.
    """
    path = Path(path)
    columns = _Columns(text_column, label_column)
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        rows = _read_json_lines(path, columns)
    elif suffix in (".csv", ".tsv"):
        rows = _read_table(path, columns)
    else:
        raise ExamplesError("cannot tell the format; name the file .csv, .tsv or .jsonl", str(path))
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
    """Name the labels that occur, sorted: the classes, in their order, where a file alone defines the task."""
    return sorted({example.label for example in examples})


def is_held_out(text: str) -> bool:
    """Say whether the device keeps this text for evaluation: the first 8 bytes of its UTF-8 bytes' SHA-256, as a
    big-endian integer, are a multiple of 10.

    It depends on the text alone, so an example never changes sides when others come or go, and copies of a text are
    always on the same side.
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


class _Columns:
    """Which columns hold the text and the label: as asked for, or any of the usual names."""

    def __init__(self, text_column: str | None, label_column: str | None) -> None:
        self.asked = text_column is not None or label_column is not None
        self.text_choices = TEXT_COLUMNS if text_column is None else (text_column,)
        self.label_choices = LABEL_COLUMNS if label_column is None else (label_column,)
        self.by_number = all(part.isdecimal() for part in _parts(text_column or "")) if text_column else False
        label_by_number = (label_column or "").strip().isdecimal()
        if self.by_number != label_by_number:
            raise OptionError("give the text column and the label column both by name or both by position")
        if self.by_number and min(map(int, (*_parts(text_column or ""), label_column or ""))) < 1:
            raise OptionError("columns are counted from 1; there is no column 0")

    def find(self, names: Sequence[str]) -> tuple[list[int], int] | None:
        """Return the positions of the text columns and of the label column among `names`; None if one is missing."""
        lowered = [name.strip().lower() for name in names]
        text = _first_present(self.text_choices, lowered)
        label = _first_present(self.label_choices, lowered)
        return None if text is None or label is None else (text, label[0])

    def positions(self) -> tuple[list[int], int]:
        """Return the column numbers asked for, counted from 0."""
        return [int(part) - 1 for part in _parts(self.text_choices[0])], int(self.label_choices[0]) - 1


def _parts(column: str) -> list[str]:
    return [part.strip() for part in column.split(",")]


def _first_present(choices: Iterable[str], lowered: Sequence[str]) -> list[int] | None:
    for choice in choices:
        parts = [part.lower() for part in _parts(choice)]
        if all(part in lowered for part in parts):
            return [lowered.index(part) for part in parts]
    return None


def _read_table(path: Path, columns: _Columns) -> Iterator[tuple[int, str, str]]:
    """Yield (line, text, label) of a CSV or TSV file."""
    comma = path.suffix.lower() == ".csv"
    located: tuple[list[int], int] | None = None
    for line, row in _csv_records(path) if comma else _tsv_records(path):
        if located is None:
            text_positions, label_position, is_header = _locate(path, line, row, columns)
            located = text_positions, label_position
            if is_header:
                continue
        text_positions, label_position = located
        needed = max(*text_positions, label_position) + 1
        if len(row) < needed:
            separator = "commas" if comma else "one tab"
            message = f"{len(row)} columns where {needed} are needed; separate them with {separator}"
            raise ExamplesError(message, str(path), line)
        text = " ".join(part for part in (row[position].strip() for position in text_positions) if part)
        yield line, text, row[label_position].strip()


def _locate(path: Path, line: int, row: Sequence[str], columns: _Columns) -> tuple[list[int], int, bool]:
    """Return (text positions, label position, whether this first row is a header)."""
    if columns.by_number:
        text, label = columns.positions()
        return text, label, _Columns(None, None).find(row) is not None
    found = columns.find(row)
    if found is not None:
        return found[0], found[1], True
    shown = ", ".join(row)[:120]
    if columns.asked:
        message = f"no such columns in the header ({shown}); name columns that are there, or positions"
        raise ExamplesError(message, str(path), line)
    if len(row) == 2:
        return [0], 1, False
    message = (
        f"{len(row)} columns and no header with a text and a label; name both columns, for instance 1 and 2"
    )
    raise ExamplesError(message, str(path), line)


def _read_json_lines(path: Path, columns: _Columns) -> Iterator[tuple[int, str, str]]:
    """Yield (line, text, label) of a file with one JSON object on each line."""
    if columns.by_number:
        raise OptionError(f"{path}: JSON objects have no positions; give the text and label columns by name")
    for line, content in _lines(path):
        if not content.strip():
            continue
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            raise ExamplesError("not JSON; write one object on each line", str(path), line) from None
        if not isinstance(value, dict):
            raise ExamplesError("not a JSON object; write one with a text and a label", str(path), line)
        keys = list(value)
        found = columns.find(keys)
        if found is None:
            message = f"no text and label among its keys ({', '.join(keys)[:120]}); name theirs"
            raise ExamplesError(message, str(path), line)
        texts = [_json_text(path, line, keys[position], value[keys[position]]) for position in found[0]]
        label = _json_text(path, line, keys[found[1]], value[keys[found[1]]])
        yield line, " ".join(text for text in texts if text), label


def _json_text(path: Path, line: int, key: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ExamplesError(f'"{key}" is not a string; put it in quotes', str(path), line)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ExamplesError(f'"{key}" holds half a surrogate pair; escape both', str(path), line)
    return value.strip()


def _tsv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    # Tab-separated files carry no quoting: a quotation mark is part of what somebody said.
    for line, content in _lines(path):
        if content.strip():
            yield line, content.split("\t")


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    # Process-wide, and therefore only ever widened: the csv module's default refuses fields over 131,072 characters.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_BYTES))
    source = _CsvLines(path)
    reader = csv.reader(source, strict=True, skipinitialspace=True)
    while True:
        source.begin_record()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            message = f"not CSV ({error}); close every quotation mark, and double those inside a quoted field"
            raise ExamplesError(message, str(path), source.first_line) from None
        if row not in ([], [""]):
            yield source.first_line, row


class _CsvLines:
    """Lines for the csv module that know where the current record began, and bound its size."""

    def __init__(self, path: Path) -> None:
        self.first_line = 0
        self._path = path
        self._characters = 0
        self._lines = _lines(path)

    def begin_record(self) -> None:
        self.first_line = self._characters = 0

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line, content = next(self._lines)
        self.first_line = self.first_line or line
        self._characters += len(content) + 1
        if self._characters > MAX_RECORD_BYTES:
            raise _too_long(self._path, self.first_line)
        return content + "\n"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, line without its end); never holds more than one line."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ExamplesError(f"cannot be read ({error.strerror}); check the path", str(path)) from None
    with file:
        number = 0
        while content := file.readline(MAX_RECORD_BYTES + 1):
            number += 1
            if len(content) > MAX_RECORD_BYTES:
                raise _too_long(path, number)
            try:
                yield number, content.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise ExamplesError("not UTF-8; save the file as UTF-8", str(path), number) from None


def _too_long(path: Path, line: int) -> ExamplesError:
    message = f"longer than {MAX_RECORD_BYTES} bytes; shorten it, or close the quotation mark that it opens"
    return ExamplesError(message, str(path), line)


def _unknown_label(line: int, label: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    header = " (if this line is a header, name its columns)" if line == 1 else ""
    return f'label "{label[:80]}" is not one of {shown}; correct it or remove the line{header}'
