"""Rows of a CSV, TSV or JSONL file, as (line number, text, label); holds one record at a time.

Tells whether a file has a header and which columns are meant. What the rows mean is `examples`' affair.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from device_runtime.errors import ExamplesError, OptionError

MAX_RECORD_BYTES = 1_000_000
"""A longer line, or quoted CSV record, is refused: no text that a person typed is that long."""

TEXT_COLUMNS = (
    "text",
    "sentence",
    "utterance",
    "query",
    "phrase",
    "content",
    "review",
    "title,description",
    "prompt",
    "instruction,input",
    "instruction",
)
LABEL_COLUMNS = (
    "label",
    "class",
    "intent",
    "category",
    "target",
    "sentiment",
    "class index",
    "response",
    "completion",
    "output",
    "answer",
)


def read_rows(path: Path, columns: Columns) -> Iterator[tuple[int, str, str]]:
    """Yield (line, text, label), both stripped, perhaps empty; the suffix of `path` tells the format.

    Raises ExamplesError at the first record that cannot be read: show it and stop.
    """
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _read_json_lines(path, columns)
    if suffix in (".csv", ".tsv"):
        return _read_table(path, columns)
    raise ExamplesError("cannot tell the format; name the file .csv, .tsv or .jsonl", str(path))


class Columns:
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
        """Return the positions of the text columns and of the label column in `names`; None without both."""
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


def _read_table(path: Path, columns: Columns) -> Iterator[tuple[int, str, str]]:
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


def _locate(path: Path, line: int, row: Sequence[str], columns: Columns) -> tuple[list[int], int, bool]:
    """Return (text positions, label position, whether this first row is a header)."""
    if columns.by_number:
        text, label = columns.positions()
        return text, label, Columns(None, None).find(row) is not None
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


def _read_json_lines(path: Path, columns: Columns) -> Iterator[tuple[int, str, str]]:
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
    # Process-wide, and therefore only ever widened: the default refuses fields over 131,072 characters.
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
