"""Family + adapter + task as one torch module: what is lowered is what the cloud differentiates.

How the result is scored with transformers and PEFT: the adapter's names are PEFT's, so an adapter written
with them is a PEFT adapter of the family's base class (for BERT: AutoModel). PEFT adds the LoRA to the
encoder; the classifier lies in the same file under `base_model.model.classifier.{weight,bias}`. Stock
BertForSequenceClassification would pool the first token through another trained layer; this task pools as its
manifest says, so the scoring is

    encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(source), folder).eval()
    head = load_file(f"{folder}/adapter_model.safetensors")
    batch = tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    hidden = encoder(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].float()
    pooled = (hidden * mask).sum(1) / mask.sum(1)          # "mean"; for "cls": hidden[:, 0]
    logits = pooled @ head[PREFIX + "weight"].T + head[PREFIX + "bias"]
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from device_runtime.bundle import layout_of
from device_runtime.errors import BundleError
from device_runtime.zo.layout import Layout
from export.adapters import Adapter
from export.adapters.kinds import adapter_kind
from export.embedding import Embed
from export.families import PREFIXES, Family, Modules, Rules, family_of, language_root
from export.segments import Auxiliary, Head, Segment, cut
from export.source import Source, Weights, locate
from export.tasks import Task
from export.tasks.language_head import LanguageHead
from export.token_head import TokenHead
from protos import bundle_pb2


class Batch(Protocol):
    """What the model reads of a batch; NumPy arrays.

    Attributes:
        input_ids: int64 [B,T].
        attention_mask: int64 [B,T], 1 for a real token.
        labels: int64 [B]; where the targets are tokens [B,T], -100 for none.
        weights: float [B], 0 for a padding row.
    """

    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[Any]


class Network:
    """The frozen chain `embed`, segments, `head` in outline; each part is made when it is asked for.

    Args:
        make: the family, with the weights that it is given.
        source: the model's files.
        task: makes what `head` computes, for a family.
        segments: K; None for one segment a block.

    Attributes:
        hidden_size, max_tokens: the family's.
        head_tokens, vocabulary: the task's.
        shapes: for each segment (the head last), name → shape of its adapter tensors in order of name.

    Raises:
        BundleError: the source's tensors are not the family's, or it has fewer blocks than segments.
    """

    def __init__(
        self,
        make: Callable[[Weights], Family],
        source: Source,
        task: Callable[[Family], Task],
        segments: int | None,
    ) -> None:
        self._family = make(Weights(source, PREFIXES))
        outline = make(Weights(source, PREFIXES, outline=True))
        self.hidden_size, self.max_tokens = outline.hidden_size, outline.max_tokens
        self._cut = cut(len(outline.blocks), 1 if outline.shared and segments is None else segments)
        if outline.shared and len(self._cut) > 1:
            raise BundleError("--segments: this model's layers share their weights; they stay in one segment")
        self._context = outline.embed().context_names
        self._task = task
        parts: list[Any] = [self._segment(outline, k) for k in range(len(self._cut))]
        head = self._head(outline)
        self.head_tokens, self.vocabulary = head.task.head_tokens, head.task.vocabulary
        parts.append(head)
        self.shapes: list[dict[str, tuple[int, ...]]] = [dict(part.shapes) for part in parts]

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

    def embed(self) -> Embed:
        """The method `embed` as a module."""
        return self._family.embed()

    def segment(self, k: int) -> Segment:
        """The method `segment_k` as a module."""
        return self._segment(self._family, k)

    def auxiliary(self, k: int) -> Auxiliary | None:
        """The method `auxiliary_k` as a module; None where the adapter kind has no such branch."""
        branch = Auxiliary(self.segment(k))
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


class Model(nn.Module):
    """A network with its adapter as one trainable float32 vector in the order of a layout.

    Args:
        network: the frozen chain.
        layout: of the adapter; its names and shapes must be the network's.

    Raises:
        BundleError: the layout is of another network.
    """

    def __init__(self, network: Network, layout: Layout) -> None:
        super().__init__()
        wanted = [(k, name, shape) for k, part in enumerate(network.shapes) for name, shape in part.items()]
        if wanted != [(t.segment, t.name, t.shape) for t in layout.tensors]:
            raise BundleError("the layout is not of this model: export the bundle again from the same source")
        self.embed = network.embed()
        self.segments = nn.ModuleList(network.segment(k) for k in range(network.segments))
        self.head = network.head
        self.layout = layout
        self.adapter = nn.Parameter(torch.zeros(layout.parameters))

    def load_adapter(self, vector: npt.NDArray[np.float32]) -> None:
        """Copies an adapter, float32 (n,), into the model.

        Raises:
            ValueError: wrong length.
        """
        if vector.shape != (self.layout.parameters,):
            raise ValueError(
                f"an adapter of this layout has {self.layout.parameters} parameters, not {vector.shape}"
            )
        with torch.no_grad():
            self.adapter.copy_(torch.from_numpy(np.array(vector, np.float32)))

    def segment_tensors(self, segment: int) -> list[torch.Tensor]:
        """The adapter tensors of a segment, as views of the adapter, in the order of the program's inputs."""
        return [self.adapter[t.span].view(t.shape) for t in self.layout.segment_tensors(segment)]

    def hidden(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """int64 [B,T], int64 [B,T] → the last hidden states, float32 [B,T,D]."""
        hidden, *context = self.embed(input_ids, attention_mask)
        for k, segment in enumerate(self.segments):
            hidden = segment(hidden, *context, *self.segment_tensors(k))
        return torch.as_tensor(hidden)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `results`."""
        return self.results(self.hidden(input_ids, attention_mask), attention_mask.float(), labels)

    def results(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The head over the last hidden states of a batch.

        Args:
            hidden: float32 [B,T,D].
            attention_mask: float32 [B,T].
            labels: int64 [B], or [B,T] where the targets are tokens.

        Returns:
            loss float32 [B] summed over the example's targets, count float32 [B], and logits float32 [B,C];
            where the targets are tokens, in place of logits the number of right ones, float32 [B].
        """
        tensors = self.segment_tensors(len(self.segments))
        if isinstance(self.head, TokenHead):
            return self.head.of_batch(hidden, labels, tensors)
        outputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = self.head(
            hidden, attention_mask, labels, *tensors
        )
        return outputs

    def logits(self, batch: Batch) -> torch.Tensor:
        """float32 [B,C] of a batch; the labels do not matter."""
        logits: torch.Tensor = self(*_tensors(batch))[2]
        return logits

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean loss in nats over a batch: sum of weight * loss by sum of weight * count, with a graph."""
        loss, count, _ = self(*_tensors(batch))
        weights = torch.as_tensor(np.asarray(batch.weights, np.float32))
        mean: torch.Tensor = (weights * loss).sum() / (weights * count).sum()
        return mean

    def gradient(self, batch: Batch) -> tuple[float, npt.NDArray[np.float32]]:
        """(mean loss in nats, its gradient by the adapter, float32 (n,) in the layout's order).

        `layout.segment_slice(k)` is a segment's part. Deterministic for a given number of torch threads.
        """
        loss = self.loss(batch)
        (gradient,) = torch.autograd.grad(loss, [self.adapter])
        return float(loss.detach()), gradient.numpy()


def build(manifest: bundle_pb2.Manifest, model: str | None = None) -> Model:
    """The torch model of a bundle, with a zero adapter: load one with `load_adapter`.

    Args:
        manifest: of the bundle.
        model: folder or Hugging Face id of the source weights; None for what the manifest names.

    Raises:
        BundleError: the source is not here, or its weights are not those that the bundle was made from.
    """
    source = locate(model or manifest.source.model, manifest.source.revision)
    if source.weights_sha256() != manifest.source.weights_sha256:
        raise BundleError(
            f"{source.folder}: these are not the weights that the bundle was exported from "
            f"({manifest.source.model}); give the folder with those weights"
        )
    return Model(network_of(manifest, source, manifest.chain.segments), layout_of(manifest))


def network_of(manifest: bundle_pb2.Manifest, source: Source, segments: int | None) -> Network:
    """The chain that a manifest's family, adapter, task and text entries describe, with a source's weights.

    Args:
        manifest: with those entries.
        source: the model's files.
        segments: K; None for one segment a block.

    Raises:
        BundleError: one of them is not supported; the message lists what is.
    """
    adapter = adapter_kind(manifest.adapter)
    make = family_maker(manifest)
    return Network(
        lambda weights: make(weights, adapter),
        source,
        lambda family: task_kind(manifest.task, family),
        segments,
    )


def family_maker(manifest: bundle_pb2.Manifest) -> Callable[[Weights, Adapter], Family]:
    """The family that a manifest describes, as a function of the weights and the adapter kind.

    Raises:
        BundleError: it is not supported; the message lists what is.
    """
    fields = json.loads(manifest.source.config_json)
    family = family_of(manifest.family)
    config = configuration(fields)
    rules = Rules(manifest.text.max_tokens, manifest.text.padding_side == "left")
    base_model = manifest.task.kind == "sequence_classification"
    root = Modules.root if base_model else language_root(manifest.family)

    def make(weights: Weights, adapter: Adapter) -> Family:
        made = family(config, Modules(weights, adapter, rules, root))
        blocks = [partial(adapter.block, index, block) for index, block in enumerate(made.blocks)]
        return replace(made, blocks=blocks)

    return make


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
        return LabelWords(_language_head(family), entry.label_word_ids, *place, family.output_size)
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


def _tensors(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    arrays = (batch.input_ids, batch.attention_mask, batch.labels)
    ids, mask, labels = (torch.from_numpy(np.asarray(array, np.int64)) for array in arrays)
    return ids, mask, labels
