"""Torch's side of forward.py: transformers' model of the same weights, as it is or through torch.compile.

The bare model and the task's linear head, without the adapter's own products: its start adds nothing to them
(LoRA's B is zero), so the logits are the program's, and torch has a little less to do.
"""

from __future__ import annotations

import sys
import time

import torch
from transformers import AutoModel

from benchmarks.processes import answer, turns, wait_for_reading
from benchmarks.step_inputs import ragged_arrays
from device_runtime.bundle import Bundle
from export.tasks.sequence_classification import BIAS, WEIGHT


class Classifier(torch.nn.Module):
    """Mean of the real tokens' hidden states, then the adapter's linear head."""

    def __init__(self, source: str, bundle: Bundle) -> None:
        super().__init__()
        self.base = AutoModel.from_pretrained(source, dtype=torch.float32).eval()
        head = {t.name: bundle.adapter[t.span].reshape(t.shape).copy() for t in bundle.layout.tensors}
        self.weight, self.bias = torch.from_numpy(head[WEIGHT]), torch.from_numpy(head[BIAS])

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Both int64 [B,T] → logits float32 [B,C]."""
        hidden = self.base(input_ids=ids, attention_mask=mask).last_hidden_state
        real = mask[..., None].float()
        pooled = (hidden * real).sum(1) / real.sum(1)
        return torch.nn.functional.linear(pooled, self.weight, self.bias)


def main(kind: str, folder: str, source: str, tokens: int, threads: int) -> None:
    """Loads and warms up at the first line it is sent; runs as many forwards as each later line says."""
    wait_for_reading()
    torch.set_num_threads(threads)
    bundle = Bundle.open(folder)
    model = Classifier(source, bundle)
    run = torch.compile(model) if kind == "compiled" else model
    ids, mask, _, _ = (torch.from_numpy(array) for array in ragged_arrays(bundle, tokens))
    with torch.no_grad():
        for _ in range(3):
            logits = run(ids, mask)
        answer({"logits": logits.tolist()})
        for line in turns():
            times_ms = []
            for _ in range(int(line)):
                begin = time.perf_counter()
                run(ids, mask)
                times_ms.append(1e3 * (time.perf_counter() - begin))
            answer({"times_ms": times_ms})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
