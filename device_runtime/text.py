"""Turns texts into batches of token ids, exactly as a bundle's manifest says."""

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


class Tokenizer:
    """A bundle's tokenizer with its manifest's rules for truncation and padding.

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
            self._tokenizer.enable_truncation(rules.max_tokens, direction=rules.truncation_side)
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path}: not a usable tokenizer; fetch or export the bundle again") from error
        self._rules = rules
        self._pad_left = rules.padding_side == "left"

    def ids(self, text: str) -> tuple[list[int], bool]:
        """One text's token ids, special tokens included, and whether it was truncated to max_tokens."""
        encoding = self._encode(_SURROGATES.sub("\ufffd", text))
        return encoding.ids, bool(encoding.overflowing)

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
        multiple = self._rules.pad_to_multiple_tokens
        longest = max(1, *(len(ids) for ids, _ in encoded))
        width = min(-(-longest // multiple) * multiple, self._rules.max_tokens)
        input_ids = np.full((count, width), self._rules.pad_id, np.int64)
        attention_mask = np.zeros((count, width), np.int64)
        for row, (ids, _) in enumerate(encoded):
            place = slice(width - len(ids), width) if self._pad_left else slice(0, len(ids))
            input_ids[row, place] = ids
            attention_mask[row, place] = 1
        truncated = np.zeros(count, np.bool_)
        truncated[: len(encoded)] = [was for _, was in encoded]
        return EncodedTexts(input_ids, attention_mask, truncated)

    def _encode(self, text: str) -> Encoding:
        """The encoding of a text that may be very long, without tokenizing what would be cut off anyway.

        Tokens come word by word (the tokenizer's own words), so a prefix of the text gives the same tokens as
        all of it, except in the prefix's last word: it will do once all kept tokens lie before that word.
        """
        size = _CHARACTERS_PER_TOKEN * self._rules.max_tokens
        while self._rules.truncation_side == "right" and size < len(text):
            encoding = self._tokenizer.encode(text[:size])
            kept, cut = (
                _last_word(encoding),
                _last_word(encoding.overflowing[-1]) if encoding.overflowing else None,
            )
            if kept is not None and cut is not None and kept < cut:
                return encoding
            size *= 4
        return self._tokenizer.encode(text)


def _last_word(encoding: Encoding) -> int | None:
    words = [word for word in encoding.word_ids if word is not None]
    return words[-1] if words else None
