"""Which adapter kinds there are, by the names that manifests and `cooperllm export --adapter` use."""

from __future__ import annotations

from device_runtime.errors import BundleError
from export.adapters import Adapter
from export.adapters.bitfit import BitFit
from export.adapters.bottleneck import Bottleneck
from export.adapters.full import Full
from export.adapters.lora import Lora
from export.adapters.lora_fa import LoraFA
from export.adapters.prefix import PrefixTokens
from protos import bundle_pb2

KINDS = ("lora", "lora_fa", "bottleneck", "bitfit", "prefix", "head", "full")


def adapter_kind(entry: bundle_pb2.AdapterKind) -> Adapter:
    """The adapter kind that a manifest names.

    Raises:
        BundleError: no such kind.
    """
    targets = tuple(entry.target_modules)
    match entry.kind:
        case "lora":
            return Lora(targets, entry.r, entry.lora_alpha)
        case "lora_fa":
            return LoraFA(targets, entry.r, entry.lora_alpha, entry.seed)
        case "bottleneck":
            return Bottleneck(targets, entry.bottleneck_size)
        case "bitfit":
            return BitFit()
        case "prefix":
            return PrefixTokens((), entry.prefix_tokens)
        case "head":
            return Adapter()
        case "full":
            return Full()
    raise BundleError(f"adapter kind {entry.kind!r} is not supported; supported: {', '.join(KINDS)}")
