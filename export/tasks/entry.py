"""What a bundle's manifest says about its task and its texts, from the options of an export."""

from __future__ import annotations

from dataclasses import dataclass

from device_runtime.errors import OptionError
from export.families import is_causal
from export.template import Template, label_word_ids, read_template
from export.text import SourceTokenizer
from protos import bundle_pb2

KINDS = ("sequence_classification", "label_words", "causal_lm")
# Where a prompt ends and a response begins, if nothing else is asked for.
_DEFAULT_PROMPT = "{text}\n"
_DEFAULT_TEMPLATES = {False: "{text} It was {mask}.", True: "{text} It was"}


@dataclass(frozen=True)
class TaskOptions:
    """What is asked for; "" and () stand for the defaults.

    Attributes:
        kind: of KINDS.
        class_names: in the order of their numbers; none in causal_lm.
        pooling: of sequence_classification; by default "last" for causal models, else "mean".
        template: of the other kinds.
        label_words: one a class; by default the class names themselves.
    """

    kind: str
    class_names: tuple[str, ...]
    pooling: str = ""
    template: str = ""
    label_words: tuple[str, ...] = ()


def fill_task(manifest: bundle_pb2.Manifest, asked: TaskOptions, tokenizer: SourceTokenizer) -> None:
    """Fills in a manifest's `task`, and the template in its `text`; `family` and `text` stand there already.

    Raises:
        OptionError: the options do not fit the kind, or the template or a label word the tokenizer.
    """
    if asked.kind not in KINDS:
        raise OptionError(f"--task {asked.kind!r} is not supported; supported: {', '.join(KINDS)}")
    if asked.kind == "causal_lm":
        _fill_causal_lm(manifest, asked, tokenizer)
        return
    if len(asked.class_names) < 2 or len(set(asked.class_names)) != len(asked.class_names):
        raise OptionError("--classes: name at least two classes, each with a name of its own")
    if not all(asked.class_names):
        raise OptionError("--classes: every class needs a name of its own")
    causal = is_causal(manifest.family)
    manifest.task.CopyFrom(bundle_pb2.TaskKind(kind=asked.kind, class_names=asked.class_names))
    if asked.kind == "sequence_classification":
        if asked.template or asked.label_words:
            raise OptionError("--template and --label-words are of --task label_words")
        manifest.task.pooling = asked.pooling or ("last" if causal else "mean")
        return
    if asked.pooling:
        raise OptionError(f"--pooling is of --task sequence_classification, not of {asked.kind}")
    _fill_label_words(manifest, asked, tokenizer, causal)


def _fill_label_words(
    manifest: bundle_pb2.Manifest, asked: TaskOptions, tokenizer: SourceTokenizer, causal: bool
) -> None:
    words = asked.label_words or asked.class_names
    if len(words) != len(asked.class_names):
        raise OptionError(f"--label-words: {len(words)} for {len(asked.class_names)} classes; give one each")
    text = asked.template or _DEFAULT_TEMPLATES[causal]
    template = read_template(text, tokenizer, causal)
    manifest.task.pooling = template.pooling
    manifest.task.pooling_offset_tokens = template.offset_tokens
    manifest.task.label_words.extend(words)
    manifest.task.label_word_ids.extend(label_word_ids(words, tokenizer, template))
    _fill_template(manifest.text, text, template)


def _fill_causal_lm(manifest: bundle_pb2.Manifest, asked: TaskOptions, tokenizer: SourceTokenizer) -> None:
    if asked.class_names or asked.label_words or asked.pooling:
        raise OptionError("--task causal_lm learns texts: --classes, --label-words and --pooling are not its")
    if not is_causal(manifest.family):
        raise OptionError(f"--task causal_lm needs a causal model; {manifest.family} is a masked one")
    text = asked.template or _DEFAULT_PROMPT
    template = read_template(text, tokenizer, causal=True)
    manifest.task.CopyFrom(bundle_pb2.TaskKind(kind=asked.kind))
    _fill_template(manifest.text, text, template)
    manifest.text.response_lead = template.word_lead
    end = tokenizer.token("eos")
    manifest.text.end_ids.extend(tokenizer.ids(end) if end is not None else ())


def _fill_template(entry: bundle_pb2.Text, written: str, template: Template) -> None:
    entry.template = written
    entry.text_lead = template.text_lead
    entry.prefix_ids.extend(template.prefix_ids)
    entry.suffix_ids.extend(template.suffix_ids)
