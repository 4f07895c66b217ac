"""Which modules `--target-modules` means: names, "auto", or "all-linear" as in PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from device_runtime.errors import OptionError
from export.adapters import AdaptedLinear, Adapter
from export.families import PREFIXES
from export.model import family_maker
from export.source import Source, Weights
from protos import bundle_pb2

# Projections that "auto" means for LoRA: of the first line of which a model has any, all that it has. Query
# and value, as in the LoRA paper; where one matrix holds them, that matrix.
ATTENTION = (
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("query_proj", "value_proj"),
    ("q_lin", "v_lin"),
    ("qkv_proj",),
    ("Wqkv",),
)
# The last projections of attention and feed-forward, after which bottlenecks stand.
BRANCH_ENDS = (
    ("attention.output.dense", "output.dense"),
    ("o_proj", "down_proj"),
    ("out_proj", "fc2"),
    ("out_lin", "lin2"),
    ("attention.dense", "ffn_output"),
    ("Wo",),
)
DEFAULTS = {"lora": ATTENTION, "lora_fa": ATTENTION, "bottleneck": BRANCH_ENDS}


def target_modules(manifest: bundle_pb2.Manifest, source: Source, asked: Sequence[str]) -> tuple[str, ...]:
    """The names for the manifest's `adapter.target_modules`: empty for kinds without target modules.

    Args:
        manifest: with every entry that says what the model is, and the adapter's kind.
        source: the model's files.
        asked: names, each the end of a module's name; or "auto" or "all-linear" alone.

    Raises:
        OptionError: none, or no such module; the message lists the model's.
    """
    kind = manifest.adapter.kind
    if kind not in DEFAULTS:
        if tuple(asked) != ("auto",):
            raise OptionError(f"--target-modules: the adapter kind {kind} has none; leave it out")
        return ()
    names = linear_names(manifest, source)
    ends = sorted({name.rsplit(".", 1)[-1] for name in names})
    if tuple(asked) == ("all-linear",) and kind != "bottleneck":
        return tuple(ends)
    if tuple(asked) == ("auto",):
        for line in DEFAULTS[kind]:
            found = tuple(end for end in line if any(Adapter((end,)).targets(name) for name in names))
            if found:
                return found
    for end in asked:
        if not any(Adapter((end,)).targets(name) for name in names):
            raise OptionError(f"no module is called {end} here; --target-modules can be {', '.join(ends)}")
    return tuple(asked)


def linear_names(manifest: bundle_pb2.Manifest, source: Source) -> list[str]:
    """The paths of all linear modules that an adapter kind is asked about, in the model's order."""
    notes = _Notes()
    outline = family_maker(manifest)(Weights(source, PREFIXES, outline=True), notes)
    for block in outline.blocks:
        block()
    return list(dict.fromkeys(notes.paths))


@dataclass(frozen=True)
class _Notes(Adapter):
    """An adapter kind that changes nothing and notes what it is asked about."""

    paths: list[str] = field(default_factory=list)

    def linear(
        self, path: str, weight: torch.Tensor, bias: torch.Tensor | None, rows: slice | None = None
    ) -> AdaptedLinear:
        self.paths.append(path)
        return super().linear(path, weight, bias, rows)
