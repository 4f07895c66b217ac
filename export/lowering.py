"""Lowers a model's chain to one ExecuTorch program: `embed`, `segment_0` …, `head`, one delegate each."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from device_runtime.errors import BundleError
from export.model import Model
from protos import bundle_pb2

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Lowered:
    """A program's bytes, and what the manifest says about its methods."""

    program: bytes
    methods: list[bundle_pb2.MethodEntry]


def lower(
    model: Model, batch_examples: int, max_tokens: int, progress: Progress = lambda step: None
) -> Lowered:
    """The program of a model, for any number of tokens T from 2 to max_tokens and always B examples.

    Args:
        model: its adapter's tensors become inputs of the segments, so their values do not matter.
        batch_examples: B.
        max_tokens: the largest T.
        progress: told what is being done, in a few words.

    Raises:
        BundleError: a segment is not one XNNPACK delegate, so it would be slow; the operators are named.
    """
    with _quiet():
        exported = {}
        for name, module, arguments, dynamic in _methods(model, batch_examples, max_tokens):
            progress(f"capturing {name}")
            exported[name] = torch.export.export(module, arguments, dynamic_shapes=dynamic, strict=True)
        progress(f"lowering {len(exported)} methods to XNNPACK")
        lowered = _to_executorch(exported)
    entries = _entries(lowered, list(exported))
    for entry in entries:
        if entry.name.startswith("segment_") and (entry.delegates != 1 or entry.undelegated_operators):
            left = ", ".join(entry.undelegated_operators) or "nothing"
            raise BundleError(
                f"{entry.name}: {entry.delegates} delegates, outside XNNPACK: {left}; it must be one"
            )
    return Lowered(bytes(lowered.buffer), entries)


def _methods(model: Model, batch: int, max_tokens: int) -> Iterator[tuple[str, Any, tuple[Any, ...], Any]]:
    """(name, module, example arguments, dynamic shapes) of each method; the values do not matter."""
    tokens = torch.export.Dim("tokens", min=2, max=max_tokens)
    ids = torch.zeros(batch, max_tokens, dtype=torch.int64)
    real = torch.ones(batch, max_tokens, dtype=torch.int64)
    network = model.network
    yield "embed", network.embed, (ids, real), ({1: tokens}, {1: tokens})
    with torch.no_grad():
        hidden, mask = network.embed(ids, real)
    last = mask.dim() - 1  # where a family's mask has its tokens
    for k, segment in enumerate(network.segments):
        tensors = tuple(t.detach().clone() for t in model.segment_tensors(k))
        fixed = (tuple(None for _ in tensors),)
        yield f"segment_{k}", segment, (hidden, mask, *tensors), ({1: tokens}, {last: tokens}, *fixed)
    labels = torch.zeros(batch, dtype=torch.int64)
    tensors = tuple(t.detach().clone() for t in model.segment_tensors(len(network.segments)))
    shapes = ({1: tokens}, {1: tokens}, None, tuple(None for _ in tensors))
    yield "head", network.head, (hidden, real.float(), labels, *tensors), shapes


def _to_executorch(exported: dict[str, Any]) -> Any:
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.config.generic_node_configs import NegConfig
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass

    # After log-softmax and gather, a sign change of B numbers would become a second delegate of `head`.
    without_neg = [config for config in ALL_PARTITIONER_CONFIGS if config is not NegConfig]
    partitioners = {
        name: [XnnpackPartitioner(configs=without_neg) if name == "head" else XnnpackPartitioner()]
        for name in exported
    }
    edge = to_edge_transform_and_lower(exported, partitioner=partitioners)
    # Inputs stay the caller's memory: the adapter is perturbed in place, and nothing is copied before a run.
    return edge.to_executorch(
        ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False))
    )


def _entries(lowered: Any, names: list[str]) -> list[bundle_pb2.MethodEntry]:
    plans = {plan.name: plan for plan in lowered.executorch_program.execution_plan}
    entries = []
    for name in names:
        plan = plans[name]
        delegates = 0
        undelegated: list[str] = []
        for instruction in plan.chains[0].instructions:
            call = instruction.instr_args
            kind = type(call).__name__
            if kind == "DelegateCall":
                delegates += 1
            elif kind == "KernelCall":
                operator = plan.operators[call.op_index]
                undelegated.append(f"{operator.name}.{operator.overload}")
        planned_bytes = sum(plan.non_const_buffer_sizes)
        entries.append(
            bundle_pb2.MethodEntry(
                name=name, delegates=delegates, undelegated_operators=undelegated, planned_bytes=planned_bytes
            )
        )
    return entries


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the lowering's own chatter (deprecations inside torch and executorch) off the user's terminal."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
