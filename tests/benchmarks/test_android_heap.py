"""What counts as heap that does not depend on n."""

from __future__ import annotations

import copy
from typing import Any

from benchmarks.android_heap import constant, heap_table

ROW = {"direction_bytes": 312, "update_bytes": 600}
FIGURES: dict[str, Any] = {
    "adapters": {10_000: dict(ROW), 1_000_000: dict(ROW)},
    "tasks": {4: 20_000, 64: 260_000},
    "direction_bytes": 4_000.0,
}


def test_one_figure_that_grows_shows() -> None:
    assert constant(FIGURES)
    assert heap_table(FIGURES).endswith("whatever n is: yes")
    grown = copy.deepcopy(FIGURES)
    grown["adapters"][1_000_000]["update_bytes"] = 8_000_000
    assert not constant(grown)
    assert heap_table(grown).endswith("whatever n is: NO")
    assert not constant(FIGURES | {"direction_bytes": 20_000.0})
