"""The frozen chain of a manifest: family, adapter kind and task put together from a source's weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from device_runtime.errors import BundleError
from export.adapters import Adapter
from export.adapters.kinds import adapter_kind
from export.embedding import Embed
from export.families import PREFIXES, Family, Modules, Rules, family_of, language_root
from export.head_gradient import HeadGradient
from export.segments import Auxiliary, Head, Segment, cut
from export.source import Source, Weights
from export.tasks import Task
from export.tasks.language_head import LanguageHead
from export.token_head import TokenHead
from protos import bundle_pb2


class Network:
    """The frozen chain `embed`, segments, `head` in outline; each part is made when it is asked for.

    Args:
        make: the family, with the weights that it is given.
        source: the model's files.
        task: makes what `head` computes, for a family.
        segments: K, or how many blocks each holds; None for one segment a block.

    Attributes:
        hidden_size, max_tokens: the family's.

    Raises:
        BundleError: it has fewer blocks than segments; and, when a part or a shape is asked for, that the
            source's tensors are not the family's.
    """

    def __init__(
        self,
        make: Callable[[Weights], Family],
        source: Source,
        task: Callable[[Family], Task],
        segments: int | Sequence[int] | None,
    ) -> None:
        self._make, self._source, self._task = make, source, task
        self._family = family = make(Weights(source, PREFIXES))
        self.hidden_size, self.max_tokens = family.hidden_size, family.max_tokens
        self._cut = cut(len(family.blocks), 1 if family.shared and segments is None else segments)
        if family.shared and len(self._cut) > 1:
            raise BundleError("--segments: this model's layers share their weights; they stay in one segment")

    @cached_property
    def _outline(self) -> Family:
        """The family on torch's meta device: shapes without values. Torch loads much of itself for it."""
        return self._make(Weights(self._source, PREFIXES, outline=True))

    @cached_property
    def _context(self) -> tuple[str, ...]:
        return self._outline.embed().context_names

    @cached_property
    def shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """For each segment (the head last), name → shape of its adapter tensors in order of name."""
        parts: list[Any] = [self._segment(self._outline, k) for k in range(len(self._cut))]
        return [dict(part.shapes) for part in (*parts, self._head(self._outline))]

    @property
    def head_tokens(self) -> int:
        """The task's: how many tokens one run of the head takes; 0 where it takes whole batches."""
        return self._head(self._outline).task.head_tokens

    @property
    def vocabulary(self) -> int:
        """The task's."""
        return self._head(self._outline).task.vocabulary

    @property
    def segments(self) -> int:
        """K."""
        return len(self._cut)

    def blocks(self, k: int) -> int:
        """How many of the model's blocks segment k holds."""
        return len(self._cut[k])

    @property
    def head(self) -> Head | TokenHead:
        """The method `head` as a module, which is the task."""
        return self._head(self._family)

    def head_gradient(self, batch_examples: int) -> HeadGradient | None:
        """The method `head_gradient` as a module; None where the head is no linear layer of the adapter's."""
        head = self.head
        return None if head.task.linear is None else HeadGradient(head.task, head.project, batch_examples)

    def embed(self) -> Embed:
        """The method `embed` as a module."""
        made = self._family.embed()
        self._context = made.context_names  # so that nobody has to make an outline for them
        return made

    def segment(self, k: int) -> Segment:
        """The method `segment_k` as a module."""
        return self._segment(self._family, k)

    def auxiliary(self, k: int) -> Auxiliary | None:
        """The method `auxiliary_k` as a module; None where the adapter kind has no such branch."""
        branch = Auxiliary(self._segment(self._outline, k))  # which reads no frozen weight
        return branch if branch.parts else None

    def _head(self, family: Family) -> Head | TokenHead:
        task = self._task(family)
        kind = TokenHead if task.head_tokens else Head
        return kind(task, None if family.project is None else family.project())

    def _segment(self, family: Family, k: int) -> Segment:
        blocks = [family.blocks[i]() for i in self._cut[k]]
        if k == len(self._cut) - 1 and family.final is not None:
            blocks.append(family.final())
        return Segment(blocks, self._context)


def configuration(fields: dict[str, Any]) -> Any:
    """config.json as transformers' configuration object, which fills in what the file leaves out.

    Raises:
        BundleError: transformers refuses it.
    """
    from transformers import AutoConfig

    options = {name: value for name, value in fields.items() if name != "model_type"}
    try:
        return AutoConfig.for_model(str(fields.get("model_type", "")), **options)
    except Exception as error:  # transformers and its validators raise many kinds
        raise BundleError(f"config.json: transformers refuses it ({str(error).splitlines()[0]})") from error


def network_of(
    manifest: bundle_pb2.Manifest,
    source: Source,
    segments: int | Sequence[int] | None,
    configure: Callable[[dict[str, Any]], Any] = configuration,
) -> Network:
    """The chain that a manifest's family, adapter, task and text entries describe, with a source's weights.

    Args:
        manifest: with those entries.
        source: the model's files.
        segments: K, or how many blocks each holds; None for one segment a block.
        configure: makes the family's configuration of config.json.

    Raises:
        BundleError: one of them is not supported; the message lists what is.
    """
    adapter = adapter_kind(manifest.adapter)
    make = family_maker(manifest, configure)
    return Network(
        lambda weights: make(weights, adapter),
        source,
        lambda family: task_kind(manifest.task, family),
        segments,
    )


def family_maker(
    manifest: bundle_pb2.Manifest, configure: Callable[[dict[str, Any]], Any] = configuration
) -> Callable[[Weights, Adapter], Family]:
    """The family that a manifest describes, as a function of the weights and the adapter kind.

    Raises:
        BundleError: it is not supported; the message lists what is.
    """
    fields = json.loads(manifest.source.config_json)
    family = family_of(manifest.family)
    config = configure(fields)
    rules = Rules(manifest.text.max_tokens, manifest.text.padding_side == "left")
    base_model = manifest.task.kind == "sequence_classification"
    root = Modules.root if base_model else language_root(manifest.family)
    words = tuple(manifest.task.label_word_ids) or None

    def make(weights: Weights, adapter: Adapter) -> Family:
        made = family(config, Modules(weights, adapter, rules, root, words))
        blocks = [partial(adapter.block, index, block) for index, block in enumerate(made.blocks)]
        return replace(made, blocks=blocks)

    return make


def task_kind(entry: bundle_pb2.TaskKind, family: Family) -> Task:
    """The task that a manifest names.

    Raises:
        BundleError: no such task, or the checkpoint has no language model's head where it needs one.
    """
    if entry.kind == "sequence_classification":
        from export.tasks.sequence_classification import SequenceClassification

        return SequenceClassification(entry.pooling, len(entry.class_names), family.output_size)
    if entry.kind == "label_words":
        from export.tasks.label_words import LabelWords

        place = (entry.pooling, entry.pooling_offset_tokens)
        return LabelWords(_language_head(family), *place, family.output_size)
    if entry.kind == "causal_lm":
        from export.tasks.causal_lm import CausalLM

        return CausalLM(_language_head(family))
    known = "sequence_classification, label_words, causal_lm"
    raise BundleError(f"task {entry.kind!r} is not supported; supported: {known}")


def _language_head(family: Family) -> LanguageHead:
    try:
        if family.language_head is not None:
            return family.language_head()
    except BundleError as error:
        raise BundleError(
            f"this task needs the language model's own head: {error}; give a checkpoint that was saved from "
            "AutoModelForMaskedLM or AutoModelForCausalLM"
        ) from error
    raise BundleError("this task needs a language model's own head, which this family has none of")
