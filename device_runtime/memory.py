"""How much memory a bundle takes on a device, and whether a limit allows it.

What counts is what the runtime keeps beside the Python process and its libraries (about 60 MB):

    weights       as large as the program's file: XNNPACK packs each weight once, the file itself is mapped
    activations   the arenas that all methods share, as planned at export
    adapter       twice: a copy exists while a version is reached, and while a task moves the adapter
    hidden states two slots of batch x tokens x width, what a plan with one shared prefix needs

All methods are counted, though a task with a window of segments holds fewer at a time: which tasks will come
is not known. What a limit leaves goes to two things, half to each: the hidden states that are kept from task
to task, of which more go to a file; and the guides of a task with the states of streaming order (see
streaming.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import BundleTooLarge

if TYPE_CHECKING:
    from .bundle import Bundle


def needed_bytes(bundle: Bundle, planned_bytes: int) -> dict[str, int]:
    """The bytes of each item of the module's list."""
    chain, text = bundle.manifest.chain, bundle.manifest.text
    return {
        "weights": bundle.program_path.stat().st_size,
        "activations": planned_bytes,
        "adapter": 2 * 4 * bundle.layout.parameters,
        "hidden states": 2 * 4 * chain.batch_examples * text.max_tokens * chain.hidden_size,
    }


def pair_bytes(bundle: Bundle) -> int:
    """What both signs in one forward take beside that: weights once more, slices and hidden states twice."""
    chain, text, layout = bundle.manifest.chain, bundle.manifest.text, bundle.layout
    weights: int = sum(method.constant_bytes for method in chain.methods if method.name.startswith("pair_"))
    slices: int = layout.segment_slice(chain.segments).start
    states: int = chain.batch_examples * text.max_tokens * chain.hidden_size
    return weights + 2 * 4 * (slices + states)


def left_bytes(bundle: Bundle, planned_bytes: int, max_memory_bytes: int) -> int:
    """What a limit leaves beside a bundle. Raises BundleTooLarge, naming the limit that would do."""
    needed = needed_bytes(bundle, planned_bytes)
    total = sum(needed.values())
    if total > max_memory_bytes:
        parts = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in needed.items())
        raise BundleTooLarge(
            f"this bundle takes {total / 1e6:.1f} MB ({parts}) and max_memory_bytes is {max_memory_bytes}: "
            f"allow {total}, or have the bundle exported with a lower --precision or a smaller batch"
        )
    return max_memory_bytes - total
