"""A link that falls to a tenth: within two rounds its device gets guides of fewer bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cooperllm.simulate.link import Link
from cooperllm.simulate.proxy import Proxies, Proxy
from device_runtime.identity import Identity
from device_runtime.transport import Transport
from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb
from tests.cloud_service.fake_device import FakeDevice, json_get
from tests.cloud_service.wide_service import wide

ROUNDS, FALLS_IN = 6, 3
LINK = Link(4e6, 1e6, rtt_s=0.005)
FLOOR = 0.75  # of the cosine: entries as independent as these leave nothing between 0.95 and what is useful


class LinkedDevice(FakeDevice):
    """A device whose guides come by the real Transport, which measures its link on them."""

    def __init__(self, proxy: Proxy, layout: Layout) -> None:
        address = f"127.0.0.1:{proxy.ports[0]}"
        super().__init__(0, address, layout)
        self.transport = Transport(address, Identity(self.key))
        self.segment_ms = [25.0, 25.0, 1.0]

    def call(self, method: str, request: Any) -> Any:
        if method == "StreamGuides":
            return self.transport.stream_guides(request.task_id)
        if method == "CheckIn":
            request.download_bytes_per_s = self.transport.traffic.download_bytes_per_s
        return super().call(method, request)

    def result(self, task: pb.Task) -> pb.Report:
        report = super().result(task)
        report.timing.segment_runs = 4 * len(self.segment_ms)  # 100 ms of work on either large segment
        return report


@pytest.mark.ci
def test_bits_fall_within_two_rounds_of_a_link(tmp_path: Path) -> None:
    with (
        Proxies() as proxies,
        wide(tmp_path, 1, rounds=ROUNDS, guide_level="auto", guide_cosine=FLOOR) as serving,
    ):
        proxy = proxies.add(LINK, serving.targets)
        device = LinkedDevice(proxy, serving.layout)
        device.enroll()
        fallen = False
        while device.step():
            if not fallen and max(device.asked, default=-1) >= FALLS_IN - 1:
                proxy.change(Link(LINK.down_bytes_per_s / 10, LINK.up_bytes_per_s, LINK.rtt_s))
                fallen = True
        device.transport.close()
        rounds = [json_get(f"{serving.where.http}/v1/rounds/{n}", "operator") for n in range(ROUNDS)]
    levels = [row["tasks"][0]["guide_level"] for row in rounds]
    sent_bytes = [row["traffic_bytes"]["guides"] for row in rounds]
    fast, slow = levels[FALLS_IN - 1], levels[FALLS_IN + 1]
    assert slow > fast > 0
    assert sent_bytes[FALLS_IN + 1] < 0.8 * sent_bytes[FALLS_IN - 1]
    assert levels[FALLS_IN + 1 :] == [slow] * (ROUNDS - FALLS_IN - 1)
    assert all(row["guide_cosines"][str(level)] >= FLOOR for row, level in zip(rounds, levels, strict=True))
