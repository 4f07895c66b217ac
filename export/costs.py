"""What a method costs to run and to hold, counted on what was captured and lowered, for the manifest."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

# Operator → which of its arguments' last size is summed over.
_PRODUCTS = {"linear": 0, "matmul": 0, "mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}


def flops(exported: torch.export.ExportedProgram) -> int:
    """2 for every multiply-add of the matrix products in a captured method, at the sizes of its examples.

    That is 2·N·M·K for a product of N×K by K×M, the usual count; elementwise work, softmax and look-ups are
    left out. Products that stand for something else (a mean as a product with 1/D, the half turn of a rotary
    embedding) are run as products and count as such.
    """
    total = 0
    for node in exported.graph.nodes:
        name = getattr(node.target, "_opname", "") if node.op == "call_function" else ""
        if name in _PRODUCTS:
            summed = node.args[_PRODUCTS[name]].meta["val"].shape[-1]
            total += 2 * prod(_size(size) for size in node.meta["val"].shape) * _size(summed)
    return total


def constant_bytes(lowered: Any) -> dict[str, int]:
    """Method → bytes of the program that it reads: its delegates, their weights, its own constants.

    Args:
        lowered: ExecuTorch's program manager. Its delegates name their weights by content hash, so that equal
            ones are stored once; what several methods read counts for each of them.
    """
    program = lowered.executorch_program
    named = lowered._named_data  # no public accessor; the key stands in the delegate's bytes
    weights = {key.encode(): len(named.buffers[entry.buffer_index]) for key, entry in named.pte_data.items()}
    sizes: dict[str, int] = {}
    for plan in program.execution_plan:
        blobs = [program.backend_delegate_data[d.processed.index].data for d in plan.delegates]
        read = sum(size for key, size in weights.items() if any(key in blob for blob in blobs))
        tensors = (value.val for value in plan.values)
        constants = {t.data_buffer_idx for t in tensors if getattr(t, "data_buffer_idx", 0)}
        own = sum(len(program.constant_buffer[index].storage) for index in constants)
        sizes[plan.name] = sum(map(len, blobs)) + read + own
    return sizes


def _size(size: int | torch.SymInt) -> int:
    """A dynamic size's value in the examples, without tying the program to it."""
    return size if isinstance(size, int) else int(size.node.hint)
