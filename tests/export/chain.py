"""Runs a bundle's program through ExecuTorch's own Python runtime: embed, segments, head, as devices do."""

from __future__ import annotations

from typing import Any

import torch

from device_runtime.bundle import Bundle


class Chain:
    """One loaded program; every hidden state is copied, because the next method may overwrite it."""

    def __init__(self, bundle: Bundle) -> None:
        from executorch.extension.pybindings.portable_lib import _load_for_executorch

        self.bundle = bundle
        self.module: Any = _load_for_executorch(str(bundle.program_path))

    def run(
        self, adapter: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """adapter float32 (n,), ids and mask int64 [B,T], labels int64 [B] → loss, count, logits."""
        hidden = self._hidden(adapter, ids, mask)
        outputs = self.module.run_method("head", (hidden, mask.float(), labels, *self._head(adapter)))
        loss, count, logits = (t.clone() for t in outputs)
        return loss, count, logits

    def head_gradient(
        self,
        adapter: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
        weights: torch.Tensor,
        targets: torch.Tensor,
    ) -> list[torch.Tensor]:
        """weights float32 [B,1], targets [B,C] → the gradient by each of the head's tensors."""
        hidden = self._hidden(adapter, ids, mask)
        given = (hidden, mask.float(), weights, targets, *self._head(adapter))
        return [t.clone() for t in self.module.run_method("head_gradient", given)]

    def _hidden(self, adapter: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        hidden, *context = (t.clone() for t in self.module.run_method("embed", (ids, mask)))
        for k in range(self.bundle.manifest.chain.segments):
            given = (hidden, *context, *self._tensors(adapter, k))
            hidden = self.module.run_method(f"segment_{k}", given)[0].clone()
        return hidden

    def _head(self, adapter: torch.Tensor) -> list[torch.Tensor]:
        return self._tensors(adapter, self.bundle.manifest.chain.segments)

    def _tensors(self, adapter: torch.Tensor, segment: int) -> list[torch.Tensor]:
        owned = self.bundle.layout.segment_tensors(segment)
        return [adapter[t.span].reshape(t.shape).contiguous() for t in owned]
