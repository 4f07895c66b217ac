"""A bundle's program in the C++ core, for the benchmarks that run it."""

from __future__ import annotations

from device_runtime import core
from device_runtime.bundle import Bundle


def open_core(bundle: Bundle, threads: int) -> core.Core:
    """The program with its initial adapter, all of it in memory."""
    chain, text = bundle.manifest.chain, bundle.manifest.text
    layout = [(t.segment, t.offset, t.count, t.exponent, list(t.shape)) for t in bundle.layout.tensors]
    sizes = (chain.segments, chain.batch_examples, text.max_tokens, chain.hidden_size, threads)
    device = core.Core(str(bundle.program_path), layout, *sizes)
    device.adapter[:] = bundle.adapter
    device.load_methods()
    return device
