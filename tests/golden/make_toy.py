"""Writes toy.pte and toy.json: a two-segment program small enough to commit, for tests that need no torch.

Run it with `python tests/golden/make_toy.py` where torch and executorch are installed. The program follows
the contract in protos/bundle.proto; its weights are drawn from a fixed seed and mean nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.passes import MemoryPlanningPass
from torch import Tensor, nn
from torch.export import Dim, export

VOCABULARY, HIDDEN, CLASSES, RANK = 32, 16, 3, 2
BATCH_EXAMPLES, MAX_TOKENS, MULTIPLE_TOKENS = 4, 16, 4
EXPONENT = 20
MASKED = -1e4

LAYOUT = [
    ("layer.0.a", 0, (HIDDEN, RANK)),
    ("layer.0.b", 0, (RANK, HIDDEN)),
    ("layer.1.a", 1, (HIDDEN, RANK)),
    ("layer.1.b", 1, (RANK, HIDDEN)),
    ("head.bias", 2, (CLASSES,)),
    ("head.weight", 2, (CLASSES, HIDDEN)),
]


class Embed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, HIDDEN)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        additive = (1.0 - mask.to(torch.float32)) * MASKED
        return self.table(ids), additive.view(mask.size(0), 1, mask.size(1))


class Segment(nn.Module):
    """Attention without heads and one nonlinear layer, with low-rank adapter tensors a and b as inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Linear(HIDDEN, HIDDEN)
        self.out = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, hidden: Tensor, mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
        batch, tokens, width = hidden.shape
        rows = hidden.reshape(1, batch * tokens, width)
        query = torch.bmm(torch.bmm(rows, a.view(1, HIDDEN, RANK)), b.view(1, RANK, HIDDEN))
        query = query.view(batch, tokens, width) + hidden
        scores = torch.bmm(query, self.key(hidden).transpose(1, 2)) * 0.25 + mask
        return hidden + torch.tanh(self.out(torch.bmm(torch.softmax(scores, dim=-1), hidden)))


class Head(nn.Module):
    def forward(
        self, hidden: Tensor, mask: Tensor, labels: Tensor, bias: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        pooled = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        logits = torch.bmm(pooled.unsqueeze(0), weight.t().unsqueeze(0)).squeeze(0) + bias
        loss = -torch.log_softmax(logits, dim=-1).gather(1, labels.unsqueeze(1)).squeeze(1)
        return loss, torch.ones_like(loss), logits


def write(folder: Path) -> None:
    torch.manual_seed(7)
    tokens = MULTIPLE_TOKENS * Dim("blocks", min=1, max=MAX_TOKENS // MULTIPLE_TOKENS)
    shape = (BATCH_EXAMPLES, MAX_TOKENS)
    ids, ones = torch.ones(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.int64)
    hidden, mask = torch.randn(*shape, HIDDEN), torch.zeros(BATCH_EXAMPLES, 1, MAX_TOKENS)
    a, b = torch.randn(HIDDEN, RANK), torch.randn(RANK, HIDDEN)
    labels = torch.zeros(BATCH_EXAMPLES, dtype=torch.int64)
    weight, bias = torch.randn(CLASSES, HIDDEN), torch.randn(CLASSES)
    programs = {
        "embed": export(Embed().eval(), (ids, ones), dynamic_shapes=({1: tokens}, {1: tokens})),
        "head": export(
            Head(),
            (hidden, ones.float(), labels, bias, weight),
            dynamic_shapes=({1: tokens}, {1: tokens}, None, None, None),
        ),
    }
    for k in range(2):
        programs[f"segment_{k}"] = export(
            Segment().eval(), (hidden, mask, a, b), dynamic_shapes=({1: tokens}, {2: tokens}, None, None)
        )
    edge = to_edge_transform_and_lower(
        programs,
        partitioner=[XnnpackPartitioner()],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    planning = MemoryPlanningPass(alloc_graph_input=False)
    program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
    (folder / "toy.pte").write_bytes(program.buffer)
    (folder / "toy.json").write_text(json.dumps(description(), indent=1) + "\n")


def description() -> dict[str, object]:
    offset, rows = 0, []
    for name, segment, shape in LAYOUT:
        rows.append(
            {"name": name, "segment": segment, "shape": shape, "offset": offset, "exponent": EXPONENT}
        )
        count = 1
        for size in shape:
            count *= size
        offset += count
    return {
        "segments": 2,
        "batch_examples": BATCH_EXAMPLES,
        "max_tokens": MAX_TOKENS,
        "pad_to_multiple_tokens": MULTIPLE_TOKENS,
        "hidden_size": HIDDEN,
        "vocabulary": VOCABULARY,
        "classes": CLASSES,
        "layout": rows,
    }


if __name__ == "__main__":
    write(Path(__file__).parent)
