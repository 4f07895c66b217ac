"""Deliveries keep the first and the last moment of each segment, of the newest tasks only."""

from cloud_service.deliveries import Deliveries


def test_a_segment_lasts_from_its_first_chunk_to_its_last() -> None:
    deliveries = Deliveries()
    deliveries.took("a", 0, 10.0, 11.0)
    deliveries.took("a", 0, 11.0, 14.0)
    deliveries.took("a", 1, 14.0, 15.0)
    deliveries.took("a", 0, 20.0, 22.0)  # again, after a break
    assert deliveries.of("a") == {0: (10.0, 22.0), 1: (14.0, 15.0)}
    assert deliveries.of("b") == {}


def test_only_the_newest_tasks_are_kept() -> None:
    deliveries = Deliveries(most_tasks=2)
    for task in ("a", "b", "c"):
        deliveries.took(task, 0, 1.0, 2.0)
    assert [task for task in ("a", "b", "c") if deliveries.of(task)] == ["b", "c"]
