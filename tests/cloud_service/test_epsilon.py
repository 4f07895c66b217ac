"""The service says so where a job's epsilon does not suit its bundle."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cloud_service.epsilon import doubt
from cloud_service.job import from_table
from protos import bundle_pb2


def bundle(*points: tuple[float, float, float]) -> Any:
    manifest = bundle_pb2.Manifest()
    for epsilon, initial, moved in points:
        manifest.fidelity.points.add(epsilon=epsilon, initial_correlation=initial, moved_correlation=moved)
    manifest.fidelity.epsilon = 0.01
    return SimpleNamespace(manifest=manifest)


MEASURED = bundle((0.001, 0.94, 0.6), (0.01, 0.998, 0.996), (0.1, 0.46, 0.18))


@pytest.mark.parametrize(("epsilon", "said"), [(0.01, None), (0.02, None), (0.002, "0.60"), (0.5, "0.18")])
def test_the_nearest_measured_epsilon_decides(epsilon: float, said: str | None) -> None:
    job = from_table({"bundle": "b", "name": "n", "public": "p", "epsilon": epsilon})
    found = doubt(job, MEASURED)
    assert (found is None) if said is None else (found is not None and said in found)
    assert found is None or "epsilon = 0.01 did best" in found
    assert doubt(job, bundle()) is None
