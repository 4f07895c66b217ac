"""Turns texts into batches of token ids, exactly as a bundle's manifest says.

Where the manifest has a template, its token ids stand around those of the text, and of the response where the
task learns one: only text and response are ever cut, so what the head looks for is always in its place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding
from tokenizers import Tokenizer as _Tokenizer

from device_runtime.errors import BundleError
from protos import bundle_pb2

# Python strings may hold halves of UTF-16 pairs, which are no characters and which no tokenizer accepts.
_SURROGATES = re.compile("[\ud800-\udfff]")
# Characters of a long text that are looked at first, for each token that fits.
_CHARACTERS_PER_TOKEN = 32
# At a token whose successor is not learned; the number that torch's and transformers' losses pass over.
NO_TARGET = -100


@dataclass(frozen=True)
class EncodedTexts:
    """A batch of texts.

    Attributes:
        input_ids: int64 [B,T].
        attention_mask: int64 [B,T], 1 for a real token, 0 for padding.
        truncated: bool [B], which texts were longer than max_tokens.
    """

    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class EncodedResponses(EncodedTexts):
    """A batch of texts, each with its response.

    Attributes:
        targets: int64 [B,T], at a token the one after it where that belongs to the response; else NO_TARGET.
    """

    targets: npt.NDArray[np.int64]


class Tokenizer:
    """A bundle's tokenizer with its manifest's rules for templates, truncation and padding.

    Args:
        path: tokenizer.json.
        rules: the manifest's `text`.

    Raises:
        BundleError: not a tokenizer; fetch or export the bundle again.
    """

    def __init__(self, path: str | Path, rules: bundle_pb2.Text) -> None:
        try:
            self._tokenizer = _Tokenizer.from_file(str(path))
            self._tokenizer.no_padding()
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path}: not a usable tokenizer; fetch or export the bundle again") from error
        self._rules = rules
        self._pad_left = rules.padding_side == "left"
        self._has_template = bool(rules.template)
        self._room = rules.max_tokens - len(rules.prefix_ids) - len(rules.suffix_ids)
        self._keep(self._room, rules.truncation_side)

    def ids(self, text: str) -> tuple[list[int], bool]:
        """One text's token ids, those of the template or special tokens included, and whether it was cut."""
        encoding = self._encode(self._rules.text_lead + _clean(text))
        if not self._has_template:
            return encoding.ids, bool(encoding.overflowing)
        ids = [*self._rules.prefix_ids, *encoding.ids, *self._rules.suffix_ids]
        return ids, bool(encoding.overflowing)

    def response_ids(self, text: str, response: str) -> tuple[list[int], int, bool]:
        """One text's and its response's ids, how many at the end are the response's, and whether any was cut.

        A text that needs more than half of the room gives way to its response first; then the response is
        cut, at its end. What ends a response stands only after a whole one.
        """
        room = self._room
        self._keep(room, "right")
        answer = self._encode(self._rules.response_lead + _clean(response))
        whole, cut_answer = [*answer.ids, *self._rules.end_ids], bool(answer.overflowing)
        self._keep(room, self._rules.truncation_side)
        asked = self._encode(self._rules.text_lead + _clean(text))
        kept = min(len(asked.ids), max(room - len(whole), room // 2))
        cut_text = bool(asked.overflowing) or kept < len(asked.ids)
        left = self._rules.truncation_side == "left"
        shown = asked.ids[len(asked.ids) - kept :] if left else asked.ids[:kept]
        said = whole[: room - kept]
        cut = cut_text or cut_answer or len(said) < len(whole)
        return [*self._rules.prefix_ids, *shown, *self._rules.suffix_ids, *said], len(said), cut

    def encode(self, texts: Sequence[str], rows: int | None = None) -> EncodedTexts:
        """A batch, padded to its longest text rounded up to pad_to_multiple_tokens (at most max_tokens).

        Args:
            texts: at least one.
            rows: B, where the program wants more rows than there are texts; those have no real token.

        Raises:
            ValueError: no texts, or more than `rows`.
        """
        count = len(texts) if rows is None else rows
        if not texts or len(texts) > count:
            raise ValueError(f"{len(texts)} texts do not fit a batch of {count} rows")
        encoded = [self.ids(text) for text in texts]
        input_ids, attention_mask, _ = self._padded([ids for ids, _ in encoded], count)
        truncated = np.zeros(count, np.bool_)
        truncated[: len(encoded)] = [was for _, was in encoded]
        return EncodedTexts(input_ids, attention_mask, truncated)

    def encode_responses(self, pairs: Sequence[tuple[str, str]], rows: int | None = None) -> EncodedResponses:
        """A batch of (text, response), padded as `encode` does, with its targets; raises as `encode` does."""
        count = len(pairs) if rows is None else rows
        if not pairs or len(pairs) > count:
            raise ValueError(f"{len(pairs)} texts do not fit a batch of {count} rows")
        encoded = [self.response_ids(text, response) for text, response in pairs]
        input_ids, attention_mask, places = self._padded([ids for ids, _, _ in encoded], count)
        targets = np.full(input_ids.shape, NO_TARGET, np.int64)
        truncated = np.zeros(count, np.bool_)
        for row, (ids, said, was) in enumerate(encoded):
            end = places[row].stop - 1  # nothing comes after the last token
            said = min(said, len(ids) - 1)  # and nothing before the first
            targets[row, end - said : end] = ids[len(ids) - said :]
            truncated[row] = was
        return EncodedResponses(input_ids, attention_mask, truncated, targets)

    def _padded(
        self, rows: Sequence[list[int]], count: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[slice]]:
        """Ids and mask, int64 [count,T], and where each row's tokens lie."""
        multiple = self._rules.pad_to_multiple_tokens
        longest = max(1, *(len(ids) for ids in rows))
        width = min(-(-longest // multiple) * multiple, self._rules.max_tokens)
        input_ids = np.full((count, width), self._rules.pad_id, np.int64)
        attention_mask = np.zeros((count, width), np.int64)
        places = []
        for row, ids in enumerate(rows):
            place = slice(width - len(ids), width) if self._pad_left else slice(0, len(ids))
            input_ids[row, place] = ids
            attention_mask[row, place] = 1
            places.append(place)
        return input_ids, attention_mask, places

    def _keep(self, tokens: int, side: str) -> None:
        """Encodings from now on have so many tokens at most."""
        self._most, self._side = tokens, side
        try:
            self._tokenizer.enable_truncation(tokens, direction=side)
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(
                "the manifest's truncation is not usable; fetch or export the bundle again"
            ) from error

    def _encode(self, text: str) -> Encoding:
        """The encoding of a text that may be very long, without tokenizing what would be cut off anyway.

        Tokens come word by word (the tokenizer's own words), so a prefix of the text gives the same tokens as
        all of it, except in the prefix's last word: it will do once all kept tokens lie before that word.
        """
        special = not self._has_template
        size = _CHARACTERS_PER_TOKEN * self._most
        while self._side == "right" and size < len(text):
            encoding = self._tokenizer.encode(text[:size], add_special_tokens=special)
            kept, cut = (
                _last_word(encoding),
                _last_word(encoding.overflowing[-1]) if encoding.overflowing else None,
            )
            if kept is not None and cut is not None and kept < cut:
                return encoding
            size *= 4
        return self._tokenizer.encode(text, add_special_tokens=special)


def _clean(text: str) -> str:
    return _SURROGATES.sub("\ufffd", text)


def _last_word(encoding: Encoding) -> int | None:
    words = [word for word in encoding.word_ids if word is not None]
    return words[-1] if words else None
