"""A fake device that hands in scalars ahead of its report, a few at a time."""

from __future__ import annotations

import grpc

from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb
from tests.cloud_service.fake_device import FakeDevice

PART_SCALARS = 2


class BundleDevice(FakeDevice):
    """One that is asked for as many scalars as its budget says."""

    def __init__(self, number: int, address: str, layout: Layout) -> None:
        super().__init__(number, address, layout)
        self.bundle_sha256 = b"b" * 32


class EagerDevice(BundleDevice):
    """Sends all scalars but the last in parts, every part twice; then the report with what is left."""

    def step(self) -> bool:
        reply = self.check_in()
        if reply.WhichOneof("answer") != "task" or reply.task.WhichOneof("kind") != "directions":
            return self.go_on(reply)
        report = self.result(reply.task)
        received = self.send_parts(report, reply.task.received_scalars)
        try:
            self.call("SendReport", rest_of(report, received))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.OUT_OF_RANGE:
                raise
            self.call("SendReport", report)
        return True

    def send_parts(self, report: pb.Report, received: int) -> int:
        while received < len(report.scalars) - 1:
            end = min(received + PART_SCALARS, len(report.scalars) - 1)
            part = pb.Scalars(task_id=report.task_id, first=received, scalars=report.scalars[received:end])
            received = self.call("SendScalars", part).received
            assert received == end
            assert self.call("SendScalars", part).received == end
        return received


def rest_of(report: pb.Report, first: int) -> pb.Report:
    """A report without its first scalars."""
    rest = pb.Report()
    rest.CopyFrom(report)
    del rest.scalars[:first]
    rest.first_scalar = first
    return rest
