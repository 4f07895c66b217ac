"""What the local update is asked in local_update.json, for a program of any number of segments."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-3
SEED = 2**63 + 5  # a device that reads seeds as signed numbers must not trip over it

Arrays = dict[str, NDArray[Any]]


def batch(program: dict[str, Any], seed: int, tokens: int) -> Arrays:
    """Return a batch whose last row is padding and whose last but one counts half."""
    random, rows = np.random.default_rng(seed), program["batch_examples"]
    mask = np.zeros((rows, tokens), np.int8)
    for row in range(rows):
        mask[row, : random.integers(1, tokens + 1)] = 1
    weights = np.ones(rows)
    weights[-2:] = 0.5, 0.0
    ids = random.integers(0, program["vocabulary"], (rows, tokens))
    labels = random.integers(0, program["classes"], rows)
    return {
        "input_ids": ids.astype(np.int32),
        "attention_mask": mask,
        "labels": labels.astype(np.int32),
        "weights": weights,
    }


def directions(count: int, active: list[int], **changes: Any) -> list[dict[str, Any]]:
    """Return directions of neighbouring seeds."""
    plain = {"isotropic_scale": 1.0, "guides": [], "active_segments": active, "boundary": 0, "prefix_seed": 0}
    return [plain | {"seed": (SEED + d) % 2**64} | changes for d in range(count)]


def guided(head: int) -> list[dict[str, Any]]:
    """Return directions with guides and segments of their own; guide 1 lies in segment 1 alone."""
    both = directions(2, list(range(head + 1)))
    both[0] |= {"isotropic_scale": 0.7, "guides": [[1, -2.0], [0, 0.25]], "active_segments": [0, 1]}
    return both


def two_blocks(p1: int, p2: int, head: int, boundary: int) -> list[dict[str, Any]]:
    """FedSPZO: neighbours in groups of p2 share the noise before the boundary."""
    made = directions(p1 * p2, list(range(head + 1)), boundary=boundary)
    return [one | {"prefix_seed": made[d - d % p2]["seed"]} for d, one in enumerate(made)]


def cases(program: dict[str, Any], has_auxiliaries: bool, has_gradient: bool) -> list[dict[str, Any]]:
    """Return the cases, each without its answers."""
    head = program["segments"]
    everything = list(range(head + 1))
    window = {"exit_segment": head - 1, "directions": directions(2, [head - 2, head])}
    made: list[dict[str, Any]] = [
        {"name": "every segment", "directions": directions(3, everything), "batches": 2},
        {"name": "from a segment on", "directions": directions(2, everything[1:]), "batches": 2},
        {"name": "with gaps", "directions": directions(2, [0, head])},
        {"name": "the head alone", "directions": directions(3, [head]), "batches": 2},
        {
            "name": "scale and guides",
            "directions": guided(head),
            "scale": True,
            "guides": True,
            "update": True,
        },
        {"name": "two blocks", "directions": two_blocks(2, 2, head, 1), "update": True},
        {"name": "two blocks of one", "directions": two_blocks(3, 1, head, head)},
        {"name": "a window", **window},
        {"name": "a window on kept states", **window, "first_segment": head - 2 or 1, "batches": 2},
        {"name": "the head on kept states", "directions": directions(2, [head]), "first_segment": head},
    ]
    if head == 2:  # segment 0 is before the kept state
        made[-2]["directions"] = directions(2, [head])
    if has_auxiliaries:
        made.append({"name": "a window and the branch", **window, "global_weight": 0.5})
    if has_gradient:
        made.append({"name": "slopes", "directions": directions(2, [head]), "exact": True, "batches": 2})
    plain = {"batches": 1, "scale": False, "guides": False, "update": False, "exact": False}
    plain |= {"first_segment": 0, "exit_segment": 0, "global_weight": 0.0, "epsilon": EPSILON}
    return [plain | case for case in made]
