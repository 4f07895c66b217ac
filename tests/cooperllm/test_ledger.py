"""The ledger tells who holds what, and does not miss a device whose adapter is another."""

from typing import Any

from cooperllm.simulate.ledger import Ledger
from cooperllm.simulate.processes import Event
from cooperllm.simulate.timeline import Span


def told(ledger: Ledger, child: str, **body: Any) -> None:
    ledger.take(Event(child, body))


def polled(
    ledger: Ledger, *hashes: str, status: str = "running", scores: dict[int, int] | None = None
) -> None:
    versions = [{"version": number, "adapter_sha256": sha256} for number, sha256 in enumerate(hashes)]
    rounds = [
        {"round": number, "evaluation": {"correct": correct, "count": 4, "loss": 0.5}}
        for number, correct in (scores or {}).items()
    ]
    told(
        ledger,
        "cloud",
        event="polled",
        job={
            "status": status,
            "detail": "",
            "version": len(hashes) - 1 if hashes else None,
            "adapter_sha256": hashes[-1] if hashes else None,
        },
        versions=versions,
        rounds=rounds,
    )


def test_copies_are_compared_version_by_version() -> None:
    ledger = Ledger(devices=2, rounds=2)
    for version, sha256 in ((0, "aa"), (1, "bb")):
        told(ledger, "device-0", event="version", version=version, adapter_sha256=sha256, form="snapshot")
    polled(ledger, "aa", "bb")
    assert ledger.unequal() == []
    told(ledger, "device-1", event="version", version=1, adapter_sha256="bc", form="record")
    assert ledger.unequal() == ["device-1 holds bc as version 1, the cloud bb"]
    assert ledger.copies(0) == {"device-0": "aa"}
    assert ledger.copies(1) == {"device-0": "bb", "device-1": "bc"}
    assert ledger.version == 1


def test_a_run_is_over_when_the_cloud_and_every_device_say_so() -> None:
    ledger = Ledger(devices=2, rounds=1)
    polled(ledger, "aa", "bb", status="finished")
    told(ledger, "device-0", event="finished", version=1, adapter_sha256="bb")
    assert not ledger.finished
    told(ledger, "device-1", event="exited", code=-9)
    assert not ledger.finished
    assert ledger.devices["device-1"].phase == "gone"
    told(ledger, "device-1", event="finished", version=1, adapter_sha256="bb")
    assert ledger.finished


def report(status: str = "OK", detail: str = "", down: int = 0, up: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "event": "report", "task_id": "t", "round": 0, "status": status, "detail": detail, "spans": [],
        "skipped_examples": 0, "truncated_examples": 0, "downlink_bytes": down, "uplink_bytes": up, **more,
    }  # fmt: skip


def test_reports_add_up_traffic_spans_and_refusals() -> None:
    ledger = Ledger(devices=1, rounds=1)
    span = {"name": "compute", "start_ms": 1.0, "end_ms": 3.5, "segment": 2}
    told(ledger, "device-0", event="task", kind="directions")
    told(ledger, "device-0", **report(down=100, up=10, spans=[span], truncated_examples=2))
    told(ledger, "device-0", event="task", kind="evaluate")
    told(ledger, "device-0", **report("NOT_ENOUGH_EXAMPLES", down=5))
    told(ledger, "device-0", event="task", kind="directions")
    told(ledger, "device-0", **report("LOSS_NOT_FINITE", "in step 0"))
    device = ledger.devices["device-0"]
    assert (device.downlink_bytes, device.uplink_bytes, device.truncated_examples) == (105, 10, 2)
    assert ledger.spans == [Span("device-0", "compute", 1.0, 3.5, 0, 2)]
    assert ledger.device_by_task == {"t": "device-0"}
    assert ledger.refusals == ["device-0: LOSS_NOT_FINITE in step 0"]


def test_scores_are_kept_by_version() -> None:
    ledger = Ledger(devices=1, rounds=10)
    assert ledger.last_score is None
    polled(ledger, "aa", scores={5: 3, 0: 2})
    assert ledger.last_score is not None
    assert ledger.last_score.accuracy == 0.75
