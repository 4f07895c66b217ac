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
        layout = self.bundle.layout
        parts = {t.name: adapter[t.span].reshape(t.shape).contiguous() for t in layout.tensors}
        last = self.bundle.manifest.chain.segments

        def tensors(segment: int) -> list[torch.Tensor]:
            return [parts[t.name] for t in layout.segment_tensors(segment)]

        hidden, *context = (t.clone() for t in self.module.run_method("embed", (ids, mask)))
        for k in range(last):
            hidden = self.module.run_method(f"segment_{k}", (hidden, *context, *tensors(k)))[0].clone()
        outputs = self.module.run_method("head", (hidden, mask.float(), labels, *tensors(last)))
        loss, count, logits = (t.clone() for t in outputs)
        return loss, count, logits
