"""Reading a device's examples from files, and which of them are held out."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
from pathlib import Path

import pytest

from device_runtime.errors import CooperLLMError, ExamplesError, OptionError
from device_runtime.example_files import MAX_RECORD_BYTES
from device_runtime.examples import (
    Example,
    is_held_out,
    label_names,
    read_examples,
    split_held_out,
)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


WAKE = Example("wake me at six", "alarm")
MUSIC = Example('play "Yesterday", please', "music")
OBJECTS = """{"text": "wake me at six", "label": "alarm"}

{"label": "music", "text": "play \\"Yesterday\\", please", "id": 7}
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("headerless.tsv", 'wake me at six\talarm\nplay "Yesterday", please\tmusic\n'),
        ("header.tsv", 'label\tid\tText\nalarm\t1\twake me at six\nmusic\t2\tplay "Yesterday", please\n'),
        ("windows.tsv", '\ufefftext\tlabel\r\nwake me at six\talarm\r\n\r\nplay "Yesterday", please\tmusic'),
        ("headerless.csv", 'wake me at six,alarm\n"play ""Yesterday"", please",music\n'),
        ("header.csv", 'Intent, Utterance\nalarm, wake me at six\nmusic, "play ""Yesterday"", please"\n\n'),
        ("objects.jsonl", OBJECTS),
    ],
)
def test_every_format_gives_the_same_examples(tmp_path: Path, name: str, content: str) -> None:
    assert read_examples(write(tmp_path, name, content)) == [WAKE, MUSIC]


def test_columns_by_name_may_be_several(tmp_path: Path) -> None:
    path = write(tmp_path, "news.csv", "kind,head,body\nsport,A win,They won.\nsport,,No headline\n")
    examples = read_examples(path, text_column="head,body", label_column="Kind")
    assert examples == [Example("A win They won.", "sport"), Example("No headline", "sport")]


def test_columns_by_position_for_a_file_without_header(tmp_path: Path) -> None:
    path = write(tmp_path, "news.csv", '"3","Oil, again","Prices\nrise"\n"4","Chips","Smaller"\n')
    examples = read_examples(path, text_column="2,3", label_column="1")
    assert examples == [Example("Oil, again Prices\nrise", "3"), Example("Chips Smaller", "4")]


def test_columns_by_position_skip_a_header(tmp_path: Path) -> None:
    path = write(tmp_path, "news.csv", "class,title,description\n3,Oil,Up\n")
    assert read_examples(path, text_column="2,3", label_column="1") == [Example("Oil Up", "3")]


def test_json_numbers_are_labels(tmp_path: Path) -> None:
    path = write(tmp_path, "sentiment.jsonl", '{"sentence": "good", "label": 1}\n')
    assert read_examples(path, class_names=["0", "1"]) == [Example("good", "1")]


@pytest.mark.parametrize(
    ("name", "content", "line", "words"),
    [
        (
            "a.tsv",
            "text\tlabel\nhello\talarm\nbye\tfarewell\n",
            3,
            'label "farewell" is not one of alarm, music',
        ),
        ("a.tsv", "phrase of mine\tmeaning\nhello\talarm\n", 1, "if this line is a header"),
        (
            "a.tsv",
            "text\tlabel\n\nhello alarm\n",
            3,
            "1 columns where 2 are needed; separate them with one tab",
        ),
        ("a.tsv", "text\tlabel\n   \talarm\n", 2, "the text is empty"),
        ("a.tsv", "text\tlabel\nhello\t \n", 2, "the label is empty"),
        ("a.tsv", b"text\tlabel\nhello\talarm\ncaf\xe9\talarm\n", 3, "not UTF-8; save the file as UTF-8"),
        ("a.tsv", "hello\talarm".encode("utf-16"), 1, "not UTF-8"),
        ("a.tsv", "a\tb\tc\n", 1, "3 columns and no header"),
        ("a.csv", 'text,label\n"one\ntwo",alarm\n"three"x,alarm\n', 4, "not CSV"),
        (
            "a.csv",
            'text,label\nfine,alarm\n"never closed,alarm\nnext,alarm\n',
            3,
            "close every quotation mark",
        ),
        ("a.jsonl", '{"text": "a", "label": "alarm"}\n{"text": \n', 2, "not JSON"),
        ("a.jsonl", "[" * 100_000 + "\n", 1, "not JSON"),
        ("a.jsonl", '["a", "alarm"]\n', 1, "not a JSON object"),
        ("a.jsonl", '{"text": "a"}\n', 1, "no text and label among its keys (text)"),
        ("a.jsonl", '{"text": ["a"], "label": "alarm"}\n', 1, '"text" is not a string'),
        ("a.jsonl", '{"text": "a", "label": true}\n', 1, '"label" is not a string'),
        ("a.jsonl", '{"text": "\\ud83d", "label": "alarm"}\n', 1, "half a surrogate pair"),
        ("a.tsv", "", None, "no examples"),
        ("a.tsv", "text\tlabel\n", None, "no examples"),
        ("a.txt", "hello\talarm\n", None, "name the file .csv, .tsv or .jsonl"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, line: int | None, words: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(ExamplesError) as caught:
        read_examples(path, class_names=["alarm", "music"])
    message = str(caught.value)
    assert "\n" not in message
    assert words in message
    assert message.startswith(f"{path}: " if line is None else f"{path}, line {line}: ")
    assert caught.value.line == line


def test_missing_file_and_missing_column(tmp_path: Path) -> None:
    with pytest.raises(ExamplesError, match=r"cannot be read .*check the path"):
        read_examples(tmp_path / "absent.tsv")
    path = write(tmp_path, "a.csv", "body,kind\nhello,alarm\n")
    with pytest.raises(ExamplesError, match=r"line 1: no such columns in the header \(body, kind\)"):
        read_examples(path, text_column="text", label_column="kind")


@pytest.mark.parametrize(
    ("text", "label"), [("2,3", None), ("2,3", "kind"), ("body", "1"), ("0", "1"), (None, "2")]
)
def test_columns_that_make_no_sense(tmp_path: Path, text: str | None, label: str | None) -> None:
    path = write(tmp_path, "a.csv", "body,kind\nhello,alarm\n")
    with pytest.raises(OptionError):
        read_examples(path, text_column=text, label_column=label)


def test_positions_make_no_sense_in_json(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="by name"):
        read_examples(write(tmp_path, "a.jsonl", "{}\n"), text_column="1", label_column="2")


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl"])
def test_a_line_over_the_limit_is_refused_with_its_number(tmp_path: Path, suffix: str) -> None:
    content = "text,label\nx,y\n".replace(",", "\t" if suffix == "tsv" else ",")
    if suffix == "jsonl":
        content = '{"text": "x", "label": "y"}\n' * 2
    path = write(tmp_path, f"a.{suffix}", content + "a" * (MAX_RECORD_BYTES + 1))
    with pytest.raises(ExamplesError, match=r"line 3: longer than 1000000 bytes"):
        read_examples(path)


def test_an_open_quotation_mark_does_not_swallow_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'text,label\n"open,alarm\n' + "more text,alarm\n" * 80_000)
    with pytest.raises(ExamplesError, match=r"line 2: longer than .* close the quotation mark"):
        read_examples(path)


def test_a_long_text_is_kept_whole(tmp_path: Path) -> None:
    text = "word " * 60_000 + "end"
    path = write(tmp_path, "a.csv", f'text,label\n"{text}",alarm\n')
    assert read_examples(path) == [Example(text, "alarm")]


def test_random_texts_survive_csv(tmp_path: Path) -> None:
    draw = random.Random(7)
    alphabet = 'ab ,"\nü漢🙂;\t'
    examples = []
    for _ in range(300):
        text = "".join(draw.choice(alphabet) for _ in range(draw.randrange(1, 30))).strip()
        if text:
            examples.append(Example(text, draw.choice(["alarm", "music"])))
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "label"])
        writer.writerows((example.text, example.label) for example in examples)
    assert read_examples(path) == examples


def test_label_names_are_sorted_and_distinct() -> None:
    assert label_names([MUSIC, WAKE, MUSIC]) == ["alarm", "music"]


def test_held_out_depends_on_the_text_alone() -> None:
    examples = [Example(f"text number {number}", "alarm") for number in range(2_000)]
    train, held_out = split_held_out(examples)
    assert 140 <= len(held_out) <= 260  # binomial(2000, 0.1): 200 +- 4.5 standard deviations
    assert sorted([*train, *held_out], key=examples.index) == examples
    assert split_held_out(examples[:900])[1] == [example for example in held_out if example in examples[:900]]
    assert all(is_held_out(example.text) for example in held_out)


def test_held_out_is_the_same_in_every_release() -> None:
    # Fixed answers: another hash would move examples that a device has trained on into its evaluation.
    assert [number for number in range(40) if is_held_out(f"text number {number}")] == [1, 4, 16, 18]


def test_errors_are_cooperllm_errors_and_nothing_heavy_is_imported() -> None:
    assert issubclass(ExamplesError, CooperLLMError)
    code = (
        "import sys, device_runtime.examples; print(sorted({'numpy', 'torch', 'google'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
