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
from device_runtime.zo.layout import Layout
from export.costs import constant_bytes, flops
from export.model import Network
from protos import bundle_pb2

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Lowered:
    """A program's bytes, and what the manifest says about its methods."""

    program: bytes
    methods: list[bundle_pb2.MethodEntry]


def lower(
    network: Network, layout: Layout, batch_examples: int, progress: Progress = lambda step: None
) -> Lowered:
    """The program of a network, for any number of tokens T from 2 to its max_tokens and always B examples.

    Args:
        network: the frozen chain.
        layout: of the adapter, whose tensors become inputs of the segments.
        batch_examples: B.
        progress: told what is being done, in a few words.

    Raises:
        BundleError: a segment is not one XNNPACK delegate, so it would be slow; the operators are named.
    """
    with _quiet():
        exported = {}
        for name, module, arguments, dynamic in _methods(network, layout, batch_examples):
            progress(f"capturing {name}")
            exported[name] = torch.export.export(module, arguments, dynamic_shapes=dynamic, strict=True)
        progress(f"lowering {len(exported)} methods to XNNPACK")
        lowered = _to_executorch(exported)
    entries = _entries(lowered, list(exported))
    constants = constant_bytes(lowered)
    for entry in entries:
        entry.flops, entry.constant_bytes = flops(exported[entry.name]), constants[entry.name]
        if entry.name.startswith("segment_"):
            entry.blocks = network.blocks(int(entry.name.removeprefix("segment_")))
    for entry in entries:
        if entry.name.startswith("segment_") and (entry.delegates != 1 or entry.undelegated_operators):
            left = ", ".join(entry.undelegated_operators) or "nothing"
            raise BundleError(
                f"{entry.name}: {entry.delegates} delegates, outside XNNPACK: {left}; it must be one"
            )
    return Lowered(bytes(lowered.buffer), entries)


def _methods(network: Network, layout: Layout, batch: int) -> Iterator[tuple[str, Any, tuple[Any, ...], Any]]:
    """(name, module, example arguments, dynamic shapes) of each method; the values do not matter."""
    tokens = torch.export.Dim("tokens", min=2, max=network.max_tokens)
    ids = torch.zeros(batch, network.max_tokens, dtype=torch.int64)
    real = torch.ones(batch, network.max_tokens, dtype=torch.int64)
    embed = network.embed()
    yield "embed", embed, (ids, real), ({1: tokens}, {1: tokens})
    with torch.no_grad():
        hidden, *context = embed(ids, real)
        _, *shorter = embed(ids[:, :2], real[:, :2])
    varying = [
        _varying(long.shape, short.shape, tokens) for long, short in zip(context, shorter, strict=True)
    ]
    for k in range(network.segments):
        tensors = tuple(torch.zeros(t.shape) for t in layout.segment_tensors(k))
        fixed = tuple(None for _ in tensors)
        segment = network.segment(k)
        yield f"segment_{k}", segment, (hidden, *context, *tensors), ({1: tokens}, (*varying, *fixed))
    labels = torch.zeros(batch, dtype=torch.int64)
    tensors = tuple(torch.zeros(t.shape) for t in layout.segment_tensors(network.segments))
    shapes = ({1: tokens}, {1: tokens}, None, tuple(None for _ in tensors))
    yield "head", network.head, (hidden, real.float(), labels, *tensors), shapes


def _varying(long: torch.Size, short: torch.Size, tokens: Any) -> dict[int, Any]:
    """Which sizes of a context tensor are a multiple of T, from its shapes at the largest T and at T = 2."""
    multiples = {i: short[i] // 2 for i in range(len(long)) if long[i] != short[i]}
    return {i: tokens if multiple == 1 else multiple * tokens for i, multiple in multiples.items()}


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
