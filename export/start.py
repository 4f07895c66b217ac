"""What training starts from: the adapter's entry in the manifest, its layout, and its values on the grid."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_runtime.errors import BundleError, OptionError
from device_runtime.zo.errors import ZoError
from device_runtime.zo.grid import choose_exponent, round_to_grid
from device_runtime.zo.layout import Layout
from export.adapters.kinds import KINDS
from export.adapters.lora_fa import LoraFALinear
from export.adapters.targets import target_modules
from export.model import Network
from export.peft_import import Imported
from export.segments import initial_value
from export.source import Source
from protos import bundle_pb2


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """What export is asked for about the adapter.

    Args:
        adapter: the kind.
        rank, lora_alpha: LoRA's; PEFT's r and lora_alpha.
        target_modules: ends of names of linear modules, or "auto" or "all-linear" alone; see targets.py.
        bottleneck: the width between a bottleneck's two matrices.
        prefix_tokens: keys and values of a prefix, in every layer.
        adapter_from: an adapter to start from, see peft_import.py; "" for the kind's own start.
        seed: of everything random.
    """

    adapter: str = "lora"
    rank: int = 8
    lora_alpha: float = 16.0
    target_modules: tuple[str, ...] = ("auto",)
    bottleneck: int = 16
    prefix_tokens: int = 8
    adapter_from: str = ""
    seed: int = 0


def adapter_entry(
    asked: AdapterOptions, manifest: bundle_pb2.Manifest, source: Source, imported: Imported | None
) -> bundle_pb2.AdapterKind:
    """The manifest's entry: only the fields that the kind has.

    Args:
        asked: the options.
        manifest: with every other entry that says what the model is.
        source: the model's files.
        imported: an adapter to start from, whose configuration then rules.

    Raises:
        OptionError: an option makes no sense; the message names it.
    """
    if asked.adapter not in KINDS:
        raise OptionError(f"--adapter {asked.adapter!r} is unknown; choose one of {', '.join(KINDS)}")
    entry = bundle_pb2.AdapterKind(kind=asked.adapter)
    manifest.adapter.CopyFrom(entry)
    names = asked.target_modules
    if asked.adapter in ("lora", "lora_fa"):
        _at_least_one(asked.rank, "--rank")
        entry.r, entry.lora_alpha = asked.rank, asked.lora_alpha
    if imported is not None and imported.lora is not None:
        entry.r, entry.lora_alpha = imported.lora.r, imported.lora.lora_alpha
        names = imported.lora.targets(asked.adapter)
    if asked.adapter == "lora_fa":
        entry.seed = asked.seed
    if asked.adapter == "bottleneck":
        _at_least_one(asked.bottleneck, "--bottleneck")
        entry.bottleneck_size = asked.bottleneck
    if asked.adapter == "prefix":
        _at_least_one(asked.prefix_tokens, "--prefix-tokens")
        entry.prefix_tokens = asked.prefix_tokens
    entry.target_modules.extend(target_modules(manifest, source, names))
    return entry


@dataclass(frozen=True)
class Start:
    """What training starts from.

    Attributes:
        layout: with each tensor's grid exponent.
        values: float32 (n,), on the grid.
        frozen: LoRA-FA's frozen factors by name.
        change: the most that rounding changed an imported value.
    """

    layout: Layout
    values: npt.NDArray[np.float32]
    frozen: dict[str, npt.NDArray[np.float32]]
    change: float


def initial_adapter(network: Network, seed: int, imported: Imported | None = None) -> Start:
    """The adapter that training starts from, and its layout.

    Every tensor comes from its own stream of the seed: another cut into segments starts from the same values.
    What was imported takes the place of those.

    Raises:
        BundleError: what was imported is not of this network.
        OptionError: the adapter kind has nothing to train here.
    """
    start: dict[tuple[int, str], npt.NDArray[np.float32]] = {}
    frozen: dict[str, npt.NDArray[np.float32]] = {}
    for k, shapes in enumerate(network.shapes):
        part = network.segment(k) if k < network.segments else network.head
        frozen |= {m.name_a: m.factor.numpy() for m in part.modules() if isinstance(m, LoraFALinear)}
        for name in shapes:
            stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
            start[k, name] = initial_value(part, name, np.random.default_rng([seed, stream]))
    if not start:
        raise OptionError("--adapter: with this task, this kind has nothing to train; choose another")
    given: dict[str, npt.NDArray[np.float32]] = {}
    if imported is not None:
        given = imported.fitted({name: values.shape for (_, name), values in start.items()}, frozen)
    layout, values = _on_grid({(k, name): given.get(name, value) for (k, name), value in start.items()})
    moved = [values[t.span] - given[t.name].reshape(-1) for t in layout.tensors if t.name in given]
    change = max((float(np.abs(move).max(initial=0.0)) for move in moved), default=0.0)
    return Start(layout, values, frozen, change)


def _on_grid(
    start: dict[tuple[int, str], npt.NDArray[np.float32]],
) -> tuple[Layout, npt.NDArray[np.float32]]:
    """The layout of (segment, name) → values, each tensor with its grid exponent, and the values rounded."""
    layout = Layout.build(
        (name, segment, values.shape, _exponent(name, values)) for (segment, name), values in start.items()
    )
    vector = np.empty(layout.parameters, np.float32)
    for tensor in layout.tensors:
        vector[tensor.span] = round_to_grid(start[tensor.segment, tensor.name].reshape(-1), tensor.exponent)
    return layout, vector


def _exponent(name: str, values: npt.NDArray[np.float32]) -> int:
    try:
        return choose_exponent(float(np.abs(values).max(initial=0.0)))
    except ZoError as error:
        raise BundleError(f"{name}: {error}") from error


def _at_least_one(value: int, option: str) -> None:
    if value < 1:
        raise OptionError(f"{option} must be at least 1")
