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

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from device_runtime.bundle import layout_of
from device_runtime.errors import BundleError
from device_runtime.zo.layout import Layout
from export.network import Network, configuration, family_maker, network_of
from export.source import locate
from export.token_head import TokenHead
from protos import bundle_pb2

__all__ = ["Batch", "Model", "Network", "build", "configuration", "family_maker", "network_of"]


class Batch(Protocol):
    """What the model reads of a batch; NumPy arrays.

    Attributes:
        input_ids: int64 [B,T].
        attention_mask: int64 [B,T], 1 for a real token.
        labels: int64 [B]; where the targets are tokens [B,T], -100 for none.
        weights: float [B], 0 for a padding row.
    """

    @property
    def input_ids(self) -> npt.NDArray[np.int64]: ...

    @property
    def attention_mask(self) -> npt.NDArray[np.int64]: ...

    @property
    def labels(self) -> npt.NDArray[np.int64]: ...

    @property
    def weights(self) -> npt.NDArray[Any]: ...


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
        self.embed = network.embed()
        self.segments = nn.ModuleList(network.segment(k) for k in range(network.segments))
        self.head = network.head
        parts: list[Any] = [*self.segments, self.head]
        wanted = [(k, name, shape) for k, part in enumerate(parts) for name, shape in part.shapes.items()]
        if wanted != [(t.segment, t.name, t.shape) for t in layout.tensors]:
            raise BundleError("the layout is not of this model: export the bundle again from the same source")
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
    return Model(network_of(manifest, source, _cut_of(manifest.chain)), layout_of(manifest))


def _cut_of(chain: bundle_pb2.Chain) -> int | list[int]:
    """How many blocks each segment holds; K alone where the bundle does not say."""
    blocks = {method.name: method.blocks for method in chain.methods}
    held = [blocks.get(f"segment_{k}", 0) for k in range(chain.segments)]
    return held if all(held) else chain.segments


def _tensors(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    arrays = (batch.input_ids, batch.attention_mask, batch.labels)
    ids, mask, labels = (torch.from_numpy(np.asarray(array, np.int64)) for array in arrays)
    return ids, mask, labels
