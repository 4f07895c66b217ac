"""Precision of the frozen weights: fp32, int8 or int4, for the lowering alone.

What the cloud differentiates stays float32. In a quantised program each frozen matrix product takes its
weight in 8 bits with one scale an output, or in 4 bits with one scale for 64 inputs of an output, and its
input in 8 bits with one scale and zero point a token, found at run time (torchao's
Int8DynamicActivationIntxWeightConfig; XNNPACK runs such a product whole). The word table, where a model has a
large one, is kept in the same bits. Norms, masks, position tables, head and adapter stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from device_runtime.bundle import PRECISIONS
from device_runtime.errors import OptionError
from export.adapters import AdaptedLinear
from export.blocks import FrozenLinear
from export.embedding import Embed
from export.tasks.language_head import LanguageHead

GROUP = 32  # columns of a table that share a scale in 4 bits
# Inputs of an output that share one, the first that divides them. XNNPACK takes multiples of 32. A forward of
# MiniLM takes 30 ms with 32, 24 with 64 and 22 with 128; its projected gradients' correlation at the best
# epsilon is then 0.97, 0.96 and 0.94.
GROUPS = (64, 32)
ROWS = 4096  # of a word table that are rounded at a time


def check_precision(precision: str) -> None:
    """Raises OptionError where the precision is none of those that there are."""
    if precision not in PRECISIONS:
        raise OptionError(f"precision {precision!r} is not supported; supported: {', '.join(PRECISIONS)}")


@contextmanager
def quantised(module: nn.Module, precision: str) -> Iterator[None]:
    """A method's module with its frozen matrices and word table in that precision, as long as it lasts.

    Afterwards they are the float32 ones again: the module may be lowered in another precision.
    """
    before: list[tuple[nn.Module, str, torch.Tensor]] = []
    tables: list[Embed] = []
    if precision != "fp32":
        for part in module.modules():
            weight = part._buffers.get("weight")
            if isinstance(part, (AdaptedLinear, FrozenLinear, LanguageHead)) and weight is not None:
                before.append((part, "weight", weight))
                part._buffers["weight"] = _matrix(weight, precision)
            elif isinstance(part, Embed):
                tables.append(part)
                before.append((part, "words", part.words))
                part.table = WordTable(part.words, precision)
                part._buffers["words"] = None
    try:
        yield
    finally:
        for part, name, tensor in before:
            part._buffers[name] = tensor
        for embed in tables:
            embed.table = None


class WordTable(nn.Module):
    """Rows of a table in 8 bits with a scale each, or in 4 bits with a scale for 32 of its columns.

    Args:
        words: float32 [V, E].
        precision: "int8" or "int4"; a width that is no multiple of 32 is kept in 8 bits.
    """

    def __init__(self, words: torch.Tensor, precision: str) -> None:
        super().__init__()
        # Defines torch.ops.quantized_decomposed.embedding_*, and their variants that a program calls.
        import executorch.exir.passes._quant_patterns_and_replacements
        import executorch.kernels.quantized  # noqa: F401

        self.packed = precision == "int4" and words.shape[1] % GROUP == 0
        pieces = [_rounded(rows, self.packed) for rows in torch.split(words, ROWS)]
        self.values: torch.Tensor
        self.scales: torch.Tensor
        self.register_buffer("values", torch.cat([values for values, _ in pieces]))
        self.register_buffer("scales", torch.cat([scales for _, scales in pieces]))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [B,T] → float32 [B,T,E]."""
        operators = torch.ops.quantized_decomposed
        found: torch.Tensor
        if self.packed:
            found = operators.embedding_4bit(self.values, self.scales, None, -8, 7, ids)
        else:
            found = operators.embedding_byte(self.values, self.scales, None, -128, 127, ids)
        return found


def _matrix(weight: torch.Tensor, precision: str) -> torch.Tensor:
    """A matrix float32 [out, in] as torchao's tensor, which stands for rounding its input too."""
    from torchao.quantization.granularity import PerAxis, PerGroup
    from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig, quantize_

    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    group = next((size for size in GROUPS if weight.shape[1] % size == 0), None)
    if precision == "int4" and group is not None:
        four_bits: Any = getattr(torch, "int4")  # noqa: B009 - torch's stubs do not know it
        config = Int8DynamicActivationIntxWeightConfig(four_bits, PerGroup(group))
    else:
        config = Int8DynamicActivationIntxWeightConfig(torch.int8, PerAxis(0))
    quantize_(linear, config)
    return linear.weight.detach()


def _rounded(rows: torch.Tensor, packed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounds symmetrically, half to even: int8 [R,E], float32 [R]; packed: uint8 [R,E/2], float32 [R,E/32].

    Two values of 4 bits lie in a byte, each plus 8, the even column in the upper half.
    """
    groups = rows.reshape(len(rows), -1, GROUP) if packed else rows.unsqueeze(1)
    largest = 7 if packed else 127
    scales = groups.abs().amax(-1).clamp(min=torch.finfo(torch.float32).tiny * largest) / largest
    values = torch.round(groups / scales.unsqueeze(-1)).view(rows.shape).to(torch.int8)
    if not packed:
        return values, scales.squeeze(1)
    high, low = (values[:, half::2].to(torch.int16) + 8 for half in (0, 1))
    return (high * 16 + low).to(torch.uint8), scales
