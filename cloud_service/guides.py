"""Back-propagation on examples that the cloud holds: loss, gradient, guides, scale. The only user of torch.

The model that is differentiated is the one that was lowered (`export.model`, imported here alone and only
when needed). What lies before the first active segment never changes during a job, so its hidden states are
computed once and kept. Everything is deterministic: fixed batches, one thread, sums in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cloud_service.directions import Float32, Float64
from device_runtime.bundle import Bundle
from device_runtime.examples import Example
from device_runtime.text import Tokenizer

if TYPE_CHECKING:
    import torch

    from export.model import Model

_ROWS = 32
# Features that hardly vary would get a huge scale: their mean square counts as at least 1 % of the tensor's.
_DAMPING = 0.01


@dataclass(frozen=True)
class _Kept:
    """A batch at the entrance of the first active segment. `rows` are its examples' numbers."""

    rows: tuple[int, ...]
    hidden: torch.Tensor  # float32 [B,T,D]
    context: tuple[torch.Tensor, ...]  # what `embed` made of it besides the hidden states
    attention_mask: torch.Tensor  # float32 [B,T]
    labels: torch.Tensor  # int64 [B]; [B,T] where the targets are tokens
    part: int = 0


def open_model(bundle: Bundle, model: str = "") -> Model:
    """The bundle's torch model on one thread, its adapter that of the bundle.

    `model` is a folder or Hugging Face id of the source weights; empty for what the manifest names.

    Raises BundleError when the source weights are not here or not those of the bundle: get them.
    """
    import torch

    from export.model import build

    torch.set_num_threads(1)
    opened = build(bundle.manifest, model or None)
    opened.load_adapter(bundle.adapter)
    return opened


class Objective:
    """The mean loss of labelled examples as a function of the adapter's active segments.

    `adapter` arguments are float32 (n,); outside the active segments they must be the bundle's adapter.
    Example i belongs to part i mod `parts`; a batch has examples of one part.
    """

    def __init__(
        self,
        model: Model,
        bundle: Bundle,
        examples: Sequence[Example],
        active_segments: Sequence[int],
        parts: int = 1,
    ) -> None:
        self.layout, self.classes = bundle.layout, len(bundle.class_names)
        self.segments = tuple(active_segments)
        self.examples = len(examples)
        numbers = [np.arange(self.layout.parameters)[self.layout.segment_slice(k)] for k in self.segments]
        self.active = np.concatenate(numbers)  # the numbers of the parameters that move
        self._model = model
        self._first = self.segments[0]
        self.parts = min(parts, max(1, len(examples)))
        batches = list(self._keep(bundle, examples))
        joined = self._first == len(model.segments) and self.parts == 1
        self._batches = _joined(batches) if joined else batches

    def loss_and_gradient(self, adapter: Float32, rows: Iterable[int] | None = None) -> tuple[float, Float64]:
        """Mean loss (nats) and its gradient (n,), zero in inactive segments, over some or all examples."""
        import torch

        self._model.load_adapter(adapter)
        gradient, loss_sum, count_sum = np.zeros(self.layout.parameters), 0.0, 0.0
        for batch, weights in self._chosen(rows):
            loss, count, _ = self._run(batch, batch.labels)
            total = (loss * weights).sum()
            (part,) = torch.autograd.grad(total, [self._model.adapter])
            gradient += part.numpy().astype(np.float64)
            loss_sum += float(total.detach())
            count_sum += float((count * weights).sum())
        active = np.zeros(self.layout.parameters)
        active[self.active] = gradient[self.active] / count_sum
        return loss_sum / count_sum, active

    def score(self, adapter: Float32, rows: Iterable[int] | None = None) -> tuple[float, int, int]:
        """Mean loss in nats, correct answers and number of targets, over some or all examples."""
        import torch

        self._model.load_adapter(adapter)
        loss_sum, count_sum, correct = 0.0, 0.0, 0.0
        with torch.no_grad():
            for batch, weights in self._chosen(rows):
                loss, count, found = self._run(batch, batch.labels)
                right = found if batch.labels.dim() == 2 else (found.argmax(-1) == batch.labels).float()
                loss_sum += float((loss * weights).sum())
                count_sum += float((count * weights).sum())
                correct += float((right * weights).sum())
        return loss_sum / count_sum, round(correct), round(count_sum)

    def scale(self, adapter: Float32) -> Float32:
        """s (n,), positive: reciprocal root mean squares of each parameter's gradients; 1 where inactive.

        In the head the gradients are those of a head of zeros with every label in turn: for a linear head
        this is 1 / rms(feature) for a weight and 1 for a bias, however the head may be at `adapter`. So one
        unit of noise moves every logit equally. Elsewhere they are the gradients of the examples' own labels,
        beside their mean over the segment: a scale of about 1, since how much larger than 1 a whole segment's
        could be says nothing of how far its parameters may go. A squared gradient counts as at least 1 % of
        that mean (in the head: of its tensor's); a tensor without any (LoRA's A, while B is zero) keeps 1.
        """
        squares = np.zeros(self.layout.parameters)
        last = len(self._model.segments)  # the head's number; a frozen one has no parameters
        head = self.layout.segment_slice(last)
        blank = adapter.copy()
        blank[head] = 0.0
        if self._first < last:
            squares += self._mean_squares(adapter, None)
        if self.segments[-1] == last:
            labelled = [self._mean_squares(blank, label)[head] for label in range(self.classes)]
            squares[head] = np.sum(labelled, axis=0) / self.classes
        scale = np.ones(self.layout.parameters)
        for segment in self.segments:
            unit = float(np.mean(squares[self.layout.segment_slice(segment)]))
            if segment == last:  # the mean square of (1/C - [label = c]) over the labels
                unit = (self.classes - 1) / self.classes**2
            for tensor in self.layout.segment_tensors(segment):
                mean = float(np.mean(squares[tensor.span]))
                if mean > 0.0:
                    least = _DAMPING * (mean if segment == last else unit)
                    scale[tensor.span] = np.sqrt(unit / (squares[tensor.span] + least))
        return scale.astype(np.float32)

    def sampled(
        self, adapter: Float32, scale: Float32 | None, first_part: int = 0
    ) -> Iterator[tuple[int, Float64]]:
        """The public gradient at an adapter in the scale's metric, S^2 grad, as (segment, values), ascending.

        Of one part, all of it comes from one pass, which ends at the first segment, so nothing is there
        before all is. Of several, segment k is of the examples of part first_part + k alone (counted round):
        a pass for each segment, back to it and no further, so the first is there after the first pass.
        """
        s = np.ones(self.layout.parameters) if scale is None else scale.astype(np.float64)
        whole = self.loss_and_gradient(adapter)[1] if self.parts == 1 else None
        for segment in self.segments:
            span = self.layout.segment_slice(segment)
            part = (first_part + segment) % self.parts
            values = self._segment_gradient(adapter, segment, part) if whole is None else whole[span]
            yield segment, values * s[span] * s[span]

    def _segment_gradient(self, adapter: Float32, segment: int, part: int) -> Float64:
        """The mean loss's gradient in one segment over one part of the examples."""
        import torch

        self._model.load_adapter(adapter)
        span = self.layout.segment_slice(segment)
        gradient, count_sum = np.zeros(span.stop - span.start), 0.0
        for batch in self._batches:
            if batch.part == part:
                loss, count, _ = self._run(batch, batch.labels, gradient_from=segment)
                (found,) = torch.autograd.grad(loss.sum(), [self._model.adapter])
                gradient += found.numpy()[span].astype(np.float64)
                count_sum += float(count.sum())
        return gradient / count_sum

    def _keep(self, bundle: Bundle, examples: Sequence[Example]) -> Iterable[_Kept]:
        """Batches of texts of similar length, run up to the first active segment."""
        import torch

        tokenizer = Tokenizer(bundle.tokenizer_path, bundle.manifest.text)
        lengths = [len(tokenizer.ids(example.text)[0]) for example in examples]
        model = self._model
        model.load_adapter(bundle.adapter)
        for rows in self._alike(lengths):
            arrays = _encoded(bundle, tokenizer, [examples[row] for row in rows])
            ids, ones, labels = (torch.from_numpy(array) for array in arrays)
            with torch.no_grad():
                hidden, *context = model.embed(ids, ones)
                for k in range(min(self._first, len(model.segments))):
                    hidden = model.segments[k](hidden, *context, *model.segment_tensors(k))
                real = ones.float()
                if self._first == len(model.segments):
                    # The head alone moves: keep what it reads of a text, not the text's every token.
                    hidden, real = model.head.task.condensed(hidden, real)
            yield _Kept(rows, hidden, tuple(context), real, labels, rows[0] % self.parts)

    def _alike(self, lengths: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """The examples' numbers, a batch at a time: of one part, and of similar length."""
        for part in range(self.parts):
            order = sorted(range(part, len(lengths), self.parts), key=lambda row: (lengths[row], row))
            for start in range(0, len(order), _ROWS):
                yield tuple(order[start : start + _ROWS])

    def _run(
        self, batch: _Kept, labels: torch.Tensor, gradient_from: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `Model.results` gives of a kept batch under the loaded adapter; with gradients from a segment
        on, where those of the segments before, which are work, are not wanted.
        """
        import torch

        model, hidden, wanted = self._model, batch.hidden, torch.is_grad_enabled()
        for k in range(self._first, len(model.segments)):
            with torch.set_grad_enabled(wanted and k >= gradient_from):
                hidden = model.segments[k](hidden, *batch.context, *model.segment_tensors(k))
        return model.results(hidden, batch.attention_mask, labels)

    def _chosen(self, rows: Iterable[int] | None) -> Iterable[tuple[_Kept, torch.Tensor]]:
        """Batches with a weight for each row, 1 for a chosen example, else 0; none without a chosen one."""
        import torch

        chosen = None if rows is None else set(rows)
        for batch in self._batches:
            weights = [1.0 if chosen is None or row in chosen else 0.0 for row in batch.rows]
            if any(weights):
                yield batch, torch.tensor(weights)

    def _mean_squares(self, adapter: Float32, label: int | None) -> Float64:
        """Mean over examples of one example's squared gradient (n,), with its own label; with a given one the
        head's part alone.
        """
        import torch

        self._model.load_adapter(adapter)
        squares = np.zeros(self.layout.parameters)
        for batch in self._batches:
            labels = batch.labels if label is None else torch.full_like(batch.labels, label)
            loss, _, _ = self._run(batch, labels, 0 if label is None else len(self._model.segments))
            for row in range(len(batch.rows)):
                (part,) = torch.autograd.grad(loss[row], [self._model.adapter], retain_graph=True)
                squares += part.numpy().astype(np.float64) ** 2
        return squares / self.examples


def _encoded(
    bundle: Bundle, tokenizer: Tokenizer, examples: Sequence[Example]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Ids and mask, int64 [B,T], and labels: class numbers [B], or the responses' tokens [B,T]."""
    names = bundle.known_labels
    if names is None:
        said = tokenizer.encode_responses([(example.text, example.label) for example in examples])
        return said.input_ids, said.attention_mask, said.targets
    encoded = tokenizer.encode([example.text for example in examples])
    labels = np.array([names.index(example.label) for example in examples], np.int64)
    return encoded.input_ids, encoded.attention_mask, labels


def _joined(batches: Sequence[_Kept]) -> list[_Kept]:
    """Pooled batches as one: all are of one token. No segment is left that would read the context."""
    import torch

    return [
        _Kept(
            tuple(row for batch in batches for row in batch.rows),
            torch.cat([batch.hidden for batch in batches]),
            (),
            torch.cat([batch.attention_mask for batch in batches]),
            torch.cat([batch.labels for batch in batches]),
        )
    ]
