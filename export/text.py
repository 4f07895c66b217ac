"""A source's tokenizer: its file for the bundle, and the rules and special tokens that go with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from device_runtime.errors import BundleError
from export.source import Source
from protos import bundle_pb2

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_USUAL = {"pad": ("[PAD]", "<pad>"), "mask": ("[MASK]", "<mask>")}


@dataclass(frozen=True)
class SourceTokenizer:
    """The tokenizer, without truncation and padding of its own (the manifest rules).

    Attributes:
        tokenizer: of tokenizer.json.
        settings: of tokenizer_config.json; empty where there is none.
        config: the model's config.json.
    """

    tokenizer: Tokenizer
    settings: dict[str, Any]
    config: dict[str, Any]

    @classmethod
    def of(cls, source: Source) -> SourceTokenizer:
        """Reads a source's.

        Raises:
            BundleError: it has no tokenizer.json.
        """
        from tokenizers import Tokenizer

        path = source.folder / "tokenizer.json"
        if not path.is_file():
            raise BundleError(
                f"{source.folder}: no tokenizer.json there; "
                "make it with AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        settings_path = source.folder / "tokenizer_config.json"
        settings = json.loads(settings_path.read_text("utf-8")) if settings_path.is_file() else {}
        return cls(tokenizer, settings, source.config)

    def file(self) -> bytes:
        """The bundle's tokenizer.json."""
        return self.tokenizer.to_str().encode()

    def ids(self, text: str) -> list[int]:
        """A text's ids, without special tokens but those that are written in it."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def special_ids(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and after a text."""
        encoding = self.tokenizer.encode("a")
        own = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
        first, last = (own[0], own[-1] + 1) if own else (len(encoding.ids), len(encoding.ids))
        return encoding.ids[:first], encoding.ids[last:]

    def token(self, role: str) -> str | None:
        """The text of the special token of a role ("pad", "mask", "eos"), or None where there is none."""
        named = self.settings.get(f"{role}_token")
        named = named.get("content") if isinstance(named, dict) else named
        for token in (named, *_USUAL.get(role, ())):
            if token and self.tokenizer.token_to_id(token) is not None:
                return str(token)
        return None

    def rules(self, max_tokens: int, multiple: int) -> bundle_pb2.Text:
        """The manifest's rules for texts without a template."""
        pad_token = self.token("pad")
        pad_id = self.tokenizer.token_to_id(pad_token) if pad_token else self.config.get("pad_token_id")
        return bundle_pb2.Text(
            max_tokens=max_tokens,
            truncation_side=self.settings.get("truncation_side", "right"),
            padding_side=self.settings.get("padding_side", "right"),
            pad_id=pad_id or 0,
            pad_to_multiple_tokens=multiple,
        )
