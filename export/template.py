"""Templates around texts, and label words, as token ids: what `cooperllm export` makes of --template.

    masked language models:  "{text} It was {mask}."      the prediction at the mask token
    causal ones:             "{text} Sentiment:"          the prediction after the last token

The fixed parts become ids once, here, and the texts' own ids are put between them on the device; so the place
of the prediction is a number of tokens from one end, and cutting a long text cannot move it. (Prompts with
label words: Schick and Schütze 2020, arXiv 2001.07676; Gao et al. 2020, arXiv 2012.15723.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from device_runtime.errors import OptionError
from export.text import SourceTokenizer

TEXT, MASK = "{text}", "{mask}"
# Stand for a text while its surroundings become ids; the first whose own tokens they leave alone is used.
_SAMPLES = ("a", "the", "A", "it", "1", "x.")


@dataclass(frozen=True)
class Template:
    """A template as ids.

    Attributes:
        prefix_ids, suffix_ids: around the text's ids, special tokens included.
        text_lead: "" or " ", which belongs to the text's first token.
        word_lead: the same for a word that stands at the mask or after the last token.
        pooling, offset_tokens: where the prediction is, as in the manifest's task.
        before_word: the words up to that place, with a sample for the text.
    """

    prefix_ids: list[int]
    suffix_ids: list[int]
    text_lead: str
    word_lead: str
    pooling: str
    offset_tokens: int
    before_word: str


def read_template(template: str, tokenizer: SourceTokenizer, causal: bool) -> Template:
    """The template as ids of a tokenizer.

    Args:
        template: with one {text}, and one {mask} for a masked language model.
        tokenizer: of the source.
        causal: the model predicts the token after the last one.

    Raises:
        OptionError: the template is not of that form, or it cannot be told from the text's tokens.
    """
    if template.count(TEXT) != 1 or template.count(MASK) != (0 if causal else 1):
        wanted = "{text} once and no {mask}" if causal else "{text} once and {mask} once"
        raise OptionError(f"--template {template!r}: this model's templates have {wanted}")
    written = template
    if not causal:
        mask = tokenizer.token("mask")
        if mask is None:
            raise OptionError("this tokenizer has no mask token; label words need a masked language model's")
        written = template.replace(MASK, mask)
    before, after = written.split(TEXT)
    opening, closing = tokenizer.special_ids()
    # The space before a continuation is part of its first token.
    kept = after.rstrip(" ") if causal else after
    prefix, text_lead = _prefix(tokenizer, before)
    prefix_ids = [*opening, *prefix]
    suffix_ids = [*_after_sample(tokenizer, kept, template), *([] if causal else closing)]
    if causal:
        return Template(prefix_ids, suffix_ids, text_lead, _lead(after), "last", 0, _SAMPLES[0] + kept)
    mask_id = tokenizer.ids(tokenizer.token("mask") or "")[-1]
    shown = template.split(MASK)[0].replace(TEXT, _SAMPLES[0])
    lead, shown = _lead(shown), shown.rstrip(" ")
    if mask_id in prefix_ids:
        return Template(prefix_ids, suffix_ids, text_lead, lead, "cls", prefix_ids.index(mask_id), shown)
    offset = len(suffix_ids) - 1 - suffix_ids.index(mask_id)
    return Template(prefix_ids, suffix_ids, text_lead, lead, "last", offset, shown)


def label_word_ids(words: Sequence[str], tokenizer: SourceTokenizer, template: Template) -> list[int]:
    """The one token that each label word is in the template's place.

    Raises:
        OptionError: a word is not one token there, or two are the same.
    """
    found: list[int] = []
    for word in words:
        before = tokenizer.ids(template.before_word)
        choices = [
            template.before_word + lead + word for lead in dict.fromkeys((template.word_lead, " ", ""))
        ]
        ids = [tokenizer.ids(choice) for choice in choices]
        single = [row[-1] for row in ids if row[:-1] == before]
        if not single:
            parts = [str(tokenizer.tokenizer.id_to_token(i)) for i in ids[0][len(before) :]]
            raise OptionError(
                f"--label-words: {word!r} is {len(parts)} tokens of this model ({', '.join(parts)}); "
                "choose a word that is one"
            )
        found.append(single[0])
    if len(set(found)) != len(found):
        raise OptionError("--label-words: two of them are the same token of this model; choose others")
    return found


def _lead(text: str) -> str:
    """The space at the end of a text, which belongs to what follows it."""
    return " " if text.endswith(" ") else ""


def _prefix(tokenizer: SourceTokenizer, before: str) -> tuple[list[int], str]:
    """Ids of what stands before the text, and the lead that gives texts the tokens they have after it."""
    kept = before.rstrip(" ")
    ids = tokenizer.ids(kept) if kept else []
    for lead in dict.fromkeys((_lead(before), "")):
        if ids + tokenizer.ids(lead + _SAMPLES[0]) == tokenizer.ids(before + _SAMPLES[0]):
            return ids, lead
    return ids, _lead(before)


def _after_sample(tokenizer: SourceTokenizer, after: str, template: str) -> list[int]:
    """Ids of what stands after the text, as they are there and not at the start of a text."""
    for sample in _SAMPLES:
        alone, both = tokenizer.ids(sample), tokenizer.ids(sample + after)
        if both[: len(alone)] == alone:
            return both[len(alone) :]
    raise OptionError(
        f"--template {template!r}: what follows {{text}} runs into the text's last token; put a space between"
    )
