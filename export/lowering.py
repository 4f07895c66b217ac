"""Lowers a model's chain to one ExecuTorch program: `embed`, `segment_0` …, `head`, one delegate each."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from device_runtime.errors import BundleError
from device_runtime.zo.layout import Layout
from export.costs import constant_bytes, flops
from export.model import Network
from export.precision import quantised
from protos import bundle_pb2

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Lowered:
    """A program, and what the manifest says about its methods.

    Attributes:
        write: puts the program into an open file, without all of its bytes in memory once more.
        methods: the manifest's entries.
    """

    write: Callable[[BinaryIO], None]
    methods: list[bundle_pb2.MethodEntry]


def lower(
    network: Network,
    layout: Layout,
    batch_examples: int,
    progress: Progress = lambda step: None,
    precision: str = "fp32",
    only: Collection[str] | None = None,
    both_signs: bool = False,
) -> Lowered:
    """The program of a network, for any number of tokens T from 2 to its max_tokens and always B examples.

    Each method is captured and lowered by itself, so one segment's float32 weights are held at a time.

    Args:
        network: the frozen chain.
        layout: of the adapter, whose tensors become inputs of the segments.
        batch_examples: B.
        progress: told what is being done, in a few words.
        precision: of the frozen weights.
        only: the methods to lower; None for all of them.
        both_signs: with `pair_k` for each segment with adapter tensors.

    Raises:
        BundleError: a segment is not one XNNPACK delegate, so it would be slow; the operators are named.
    """
    programs: dict[str, Any] = {}
    costs: dict[str, int] = {}
    with _quiet():
        for name, module, arguments, dynamic in _methods(network, layout, batch_examples, both_signs):
            if only is not None and name not in only:
                continue
            progress(f"lowering {name} ({network.segments} segments)")
            with quantised(module, precision):
                # Not strict: no control flow here that dynamo would have to find, and it is slow.
                exported = torch.export.export(module, arguments, dynamic_shapes=dynamic, strict=False)
                costs[name] = flops(exported)
                programs[name] = _to_xnnpack(name, exported)
            del module, exported
        progress("putting the methods together")
        lowered = _to_executorch(programs)
    entries = _entries(lowered, list(programs))
    constants = constant_bytes(lowered)
    for entry in entries:
        entry.flops, entry.constant_bytes = costs[entry.name], constants[entry.name]
        if entry.name.startswith("segment_"):
            entry.blocks = network.blocks(int(entry.name.removeprefix("segment_")))
    for entry in entries:
        whole = entry.name.startswith(("segment_", "auxiliary_", "pair_"))
        if whole and (entry.delegates != 1 or entry.undelegated_operators):
            left = ", ".join(entry.undelegated_operators) or "nothing"
            raise BundleError(
                f"{entry.name}: {entry.delegates} delegates, outside XNNPACK: {left}; it must be one"
            )
    return Lowered(lowered.write_to_file, entries)


def _methods(
    network: Network, layout: Layout, batch: int, both_signs: bool
) -> Iterator[tuple[str, Any, tuple[Any, ...], Any]]:
    """(name, module, example arguments, dynamic shapes) of each method; the values do not matter."""
    tokens = torch.export.Dim("tokens", min=2, max=network.max_tokens)
    ids = torch.zeros(batch, network.max_tokens, dtype=torch.int64)
    real = torch.ones(batch, network.max_tokens, dtype=torch.int64)
    embed = network.embed()
    yield "embed", embed, (ids, real), ({1: tokens}, {1: tokens})
    with torch.no_grad():
        hidden, *context = embed(ids, real)
        _, *shorter = embed(ids[:, :2], real[:, :2])
        wide, *wide_context = (
            embed(torch.cat([ids, ids]), torch.cat([real, real])) if both_signs else [hidden]
        )
    varying = [
        _varying(long.shape, short.shape, tokens) for long, short in zip(context, shorter, strict=True)
    ]
    del embed  # its table may be the largest tensor there is
    for k in range(network.segments):
        tensors = tuple(torch.zeros(t.shape) for t in layout.segment_tensors(k))
        fixed = tuple(None for _ in tensors)
        segment = network.segment(k)
        yield f"segment_{k}", segment, (hidden, *context, *tensors), ({1: tokens}, (*varying, *fixed))
        if both_signs and tensors:
            signs = tuple(torch.zeros(2, *t.shape) for t in tensors)
            yield f"pair_{k}", segment, (wide, *wide_context, *signs), ({1: tokens}, (*varying, *fixed))
        del segment
        auxiliary = network.auxiliary(k)
        if auxiliary is not None:
            yield f"auxiliary_{k}", auxiliary, (hidden, *tensors), ({1: tokens}, fixed)
    tensors = tuple(torch.zeros(t.shape) for t in layout.segment_tensors(network.segments))
    if network.head_tokens:
        states = torch.zeros(network.head_tokens, network.hidden_size)
        yield "head", network.head, (states, torch.zeros(len(states), dtype=torch.int64), *tensors), None
        return
    labels = torch.zeros(batch, dtype=torch.int64)
    shapes = ({1: tokens}, {1: tokens}, None, *([tuple(None for _ in tensors)] if tensors else []))
    yield "head", network.head, (hidden, real.float(), labels, *tensors), shapes
    gradient = network.head_gradient(batch)
    if gradient is not None:
        targets = torch.zeros(batch, len(tensors[gradient.bias]))
        given = (hidden, real.float(), torch.zeros(batch, 1), targets, *tensors)
        yield "head_gradient", gradient, given, ({1: tokens}, {1: tokens}, None, None, (None, None))


def _varying(long: torch.Size, short: torch.Size, tokens: Any) -> dict[int, Any]:
    """Which sizes of a context tensor are a multiple of T, from its shapes at the largest T and at T = 2."""
    multiples = {i: short[i] // 2 for i in range(len(long)) if long[i] != short[i]}
    return {i: tokens if multiple == 1 else multiple * tokens for i, multiple in multiples.items()}


def _to_xnnpack(name: str, exported: Any) -> Any:
    """One method in ExecuTorch's edge dialect, with what XNNPACK takes of it as delegates."""
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.config.generic_node_configs import NegConfig
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    class Partitioner(XnnpackPartitioner):  # type: ignore[misc]
        """Keeps every operator that XNNPACK has whole; asking of each node first takes two more passes."""

        def ops_to_not_decompose(self, ep: Any) -> Any:
            return super().ops_to_not_decompose(ep)[0], None

    # After log-softmax and gather, a sign change of B numbers would become a second delegate of `head`.
    without_neg = [config for config in ALL_PARTITIONER_CONFIGS if config is not NegConfig]
    partitioner = Partitioner(configs=without_neg if name == "head" else None)
    # The checks between passes take a sixth of the time; the result's delegates are checked here.
    unchecked = EdgeCompileConfig(_check_ir_validity=False)
    edge = to_edge_transform_and_lower(
        {name: exported}, partitioner={name: [partitioner]}, compile_config=unchecked
    )
    program = edge.exported_program(name)
    for part in program.graph_module.children():
        original = getattr(part, "original_module", None)
        for weights in () if original is None else (original.state_dict, original.constants):
            # A delegate keeps what it was made of, for its shapes; its weights are serialised already.
            weights.update({key: value.new_zeros(1).expand(value.shape) for key, value in weights.items()})
    return program


def _to_executorch(programs: dict[str, Any]) -> Any:
    from executorch.exir import EdgeCompileConfig, EdgeProgramManager, ExecutorchBackendConfig
    from executorch.exir.passes import MemoryPlanningPass

    edge = EdgeProgramManager(programs, compile_config=EdgeCompileConfig(_check_ir_validity=False))
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
