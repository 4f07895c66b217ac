"""A device without a model: it speaks the whole protocol and measures a quadratic loss by NumPy.

loss(theta) = sum((theta - target)^2) / 2 with a target drawn from the device's number. Everything it sends
depends on the task and the number alone, never on time.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray
from safetensors.numpy import load

from device_runtime.guides import decode
from device_runtime.zo import direction as zo_direction
from device_runtime.zo.layout import Layout
from device_runtime.zo.spsa import Update, projected_gradient
from device_runtime.zo.version import adapter_sha256, apply_records, decode_delta
from protos import federation_pb2 as pb
from protos import federation_pb2_grpc as rpc

Float32 = NDArray[np.float32]
PERMANENT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED)
_SERVICE = "/cooperllm.v1.Federation/"


def target(number: int, parameters: int) -> Float32:
    """Where this device's loss is smallest."""
    return np.random.default_rng(number).normal(0.0, 0.5, parameters).astype(np.float32)


class FakeDevice:
    """Device `number` of a service. `session` does what there is to do until the job has finished."""

    def __init__(self, number: int, address: str, layout: Layout) -> None:
        # The key is a function of the number, so that client ids are the same in every run.
        self.key = ec.derive_private_key(1_000_003 + number, ec.SECP256R1())
        self.public_key = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.client_id = hashlib.sha256(self.public_key).hexdigest()[:32]
        self.number, self.layout = number, layout
        self.target = target(number, layout.parameters)
        self.channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.min_reconnect_backoff_ms", 10_000),
                ("grpc.max_reconnect_backoff_ms", 200),
            ],
        )
        self.stub = rpc.FederationStub(self.channel)
        self.budget = pb.DisclosureBudget(
            max_scalars_per_round=64, max_head_scalars_per_round=64, min_batch_examples=8
        )
        self.bundle_sha256 = b""  # with one, the cloud believes its budget
        self.adapter: Float32 | None = None
        self.version = 0
        self.guides: dict[bytes, Float32] = {}
        self.forms: list[str] = []
        self.hashes: dict[int, str] = {}
        self.asked: dict[int, pb.Task] = {}  # by round, the last of its tasks that was no evaluation
        self.exits: dict[int, int] = {}  # by round, of its evaluation
        self.http = ""
        self.segment_ms: list[float] = []  # what it says that a run of each segment takes
        self.rates: dict[
            int, float
        ] = {}  # by round, from which on it says that its link is so fast, bytes a second
        self.time_ms = lambda: int(time.time() * 1000)

    # --- calls
    # ----------------------------------------------------------------------------------------------------

    def enroll(self) -> pb.EnrollReply:
        reply = self.stub.Enroll(
            pb.EnrollRequest(public_key=self.public_key, device_name=f"fake {self.number}")
        )
        self.http = reply.artifacts_url
        return reply

    def metadata(self, method: str, request: bytes) -> list[tuple[str, str]]:
        return self._signed(f"{_SERVICE}{method}\n%s\n", request)

    def headers(self, path: str) -> dict[str, str]:
        return dict(self._signed(f"GET {path}\n%s\n", b""))

    def _signed(self, form: str, request: bytes) -> list[tuple[str, str]]:
        time_ms = str(self.time_ms())
        signature = self.key.sign((form % time_ms).encode() + request, ec.ECDSA(hashes.SHA256()))
        return [
            ("cooperllm-client", self.client_id),
            ("cooperllm-time-ms", time_ms),
            ("cooperllm-signature", signature.hex()),
        ]

    def call(self, method: str, request: Any) -> Any:
        encoded = request.SerializeToString()
        return getattr(self.stub, method)(request, timeout=10, metadata=self.metadata(method, encoded))

    def fetch(self, sha256: bytes) -> bytes:
        path = f"/v1/artifacts/{sha256.hex()}"
        request = urllib.request.Request(self.http + path, headers=self.headers(path))
        with urllib.request.urlopen(request, timeout=10) as response:
            data: bytes = response.read()
        assert hashlib.sha256(data).digest() == sha256
        return data

    def check_in(self) -> pb.CheckInReply:
        request = pb.CheckInRequest(
            protocol_version=1, budget=self.budget, train_examples=64, bundle_sha256=self.bundle_sha256
        )
        request.download_bytes_per_s = self._rate(max(self.asked, default=0))
        if self.adapter is not None:
            request.adapter_version, request.adapter_sha256 = self.version, adapter_sha256(self.adapter)
        return self.call("CheckIn", request)

    # --- versions
    # -------------------------------------------------------------------------------------------------

    def bring_to(self, update: pb.VersionUpdate) -> None:
        form = update.WhichOneof("form")
        self.forms.append(form)
        if form == "snapshot":
            tensors = load(self.fetch(update.snapshot.sha256))
            self.adapter = np.concatenate(
                [tensors[tensor.name].reshape(-1) for tensor in self.layout.tensors]
            )
        elif form == "delta":
            assert self.adapter is not None
            assert update.from_version == self.version
            self.adapter = decode_delta(self.fetch(update.delta.sha256), self.adapter, self.layout)
        elif form == "records":
            assert self.adapter is not None
            assert update.from_version == self.version
            for guide in update.records.guides:
                assert guide.sha256 not in self.guides
                self._keep(guide.sha256, {s.segment: (s.encoding, s.data) for s in guide.segments})
            updates = [self._update(record) for record in update.records.record]
            self.adapter = apply_records(self.adapter, self.layout, updates)
        assert self.adapter is not None
        assert adapter_sha256(self.adapter) == update.adapter_sha256
        self.version = update.version
        self.hashes[self.version] = update.adapter_sha256.hex()

    def _scale(self, sha256: bytes) -> Float32 | None:
        return load(self.fetch(sha256))["scale"] if sha256 else None

    def _terms(self, terms: Any) -> tuple[zo_direction.Guide, ...]:
        return tuple(zo_direction.Guide(self.guides[term.guide_sha256], term.coefficient) for term in terms)

    def _expand(self, items: Any, scale: Float32 | None, active: Any) -> list[zo_direction.Direction]:
        found: list[zo_direction.Direction] = []
        for item in items:
            segments = tuple(item.active_segments or active)
            first = zo_direction.Direction(
                item.seed,
                item.isotropic_scale,
                scale,
                self._terms(item.guides),
                segments,
                item.boundary,
                item.prefix_seed,
            )
            found += zo_direction.expand(first, item.count, max(1, item.per_prefix))
        return found

    def _update(self, record: pb.Record) -> Update:
        directions = self._expand(record.directions, self._scale(record.scale_sha256), record.active_segments)
        return Update(
            record.epsilon,
            record.update_seed,
            tuple(directions),
            tuple(record.coefficients),
            self._terms(record.guides),
            tuple(record.active_segments),
        )

    # --- tasks
    # ----------------------------------------------------------------------------------------------------

    def receive_guides(self, task: pb.Task) -> None:
        announced = task.directions.guides
        encoded: dict[tuple[int, int], bytearray] = {}
        request = pb.StreamGuidesRequest(task_id=task.task_id)
        for chunk in self.call("StreamGuides", request):
            assert len(chunk.data) <= 16 << 10
            part = encoded.setdefault((chunk.segment, chunk.guide), bytearray())
            assert len(part) == chunk.offset_bytes
            part += chunk.data
            if len(part) == chunk.segment_size_bytes:
                assert hashlib.sha256(part).digest() == chunk.segment_sha256
        assert chunk.last
        assert list(encoded) == sorted((k, at) for at, guide in enumerate(announced) for k in guide.segments)
        for at, guide in enumerate(announced):
            own = {segment: (chunk.encoding, bytes(encoded[segment, at])) for segment in guide.segments}
            self._keep(guide.sha256, own)

    def _keep(self, name: bytes, pieces: dict[int, tuple[int, bytes]]) -> None:
        values = np.zeros(self.layout.parameters, dtype=np.float32)
        for segment, (encoding, data) in pieces.items():
            span = self.layout.segment_slice(segment)
            values[span] = decode(encoding, data, span.stop - span.start)
        self.guides[name] = values

    def loss(self, adapter: Float32) -> float:
        difference = adapter.astype(np.float64) - self.target
        return float(np.sum(difference * difference)) / 2.0

    def result(self, task: pb.Task) -> pb.Report:
        """Brings the adapter to the task's version, does the task and answers its report."""
        self.bring_to(task.update)
        assert self.adapter is not None
        report = pb.Report(
            task_id=task.task_id,
            report_id=f"{self.number}-{task.task_id}",
            status=pb.REPORT_STATUS_OK,
            adapter_sha256=adapter_sha256(self.adapter),
        )
        report.timing.spans.add(name="compute", start_ms=1.0, end_ms=2.0)
        if task.WhichOneof("kind") == "evaluate":
            self.exits[task.round] = task.evaluate.exit_segment
            report.evaluation.loss, report.evaluation.correct, report.evaluation.count = (
                self.loss(self.adapter),
                3,
                4,
            )
            return report
        self.asked[task.round] = task
        if task.WhichOneof("kind") == "score_segments":
            return self.scored(report)
        if task.directions.guides:
            self.receive_guides(task)
        scale = self._scale(task.directions.scale_sha256)
        for step in task.directions.steps:
            for item in self._expand(step.directions, scale, task.directions.active_segments):
                rho = projected_gradient(self.loss, self.adapter, self.layout, item, task.directions.epsilon)
                report.scalars.append(rho)
        report.examples = 8
        report.timing.segment_ms.extend(self.segment_ms)
        report.timing.segment_runs = 16 * len(self.segment_ms)
        report.timing.download_bytes_per_s = self._rate(task.round)
        return report

    def _rate(self, round_number: int) -> float:
        since = max((number for number in self.rates if number <= round_number), default=0)
        return self.rates.get(since, 0.0)

    def scored(self, report: pb.Report) -> pb.Report:
        """Scores that fall from segment to segment; device 1 is too old to know such tasks."""
        if self.number == 1:
            report.status, report.detail = pb.REPORT_STATUS_UNSUPPORTED_TASK, "update the app"
            return report
        segments = range(len(self.layout.segments) - 1)
        report.segment_scores.extend(1.0 - 0.04 * (k + 1) * (self.number + 1) for k in segments)
        report.examples = 8
        return report

    def step(self) -> bool:
        """One check-in and what it asks for; False once the job has finished. Raises grpc.RpcError."""
        return self.go_on(self.check_in())

    def go_on(self, reply: pb.CheckInReply) -> bool:
        """What a check-in's answer asks for."""
        if reply.WhichOneof("answer") == "finished":
            self.bring_to(reply.finished.update)
            return False
        if reply.WhichOneof("answer") == "task":
            self.call("SendReport", self.result(reply.task))
        else:
            time.sleep(reply.retry.min_ms / 1000)
        return True

    def session(self, seconds: float = 60.0) -> None:
        """Goes on until the job has finished, whatever happens to the service meanwhile."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            try:
                if not self.http:
                    self.enroll()
                if not self.step():
                    return
            except (grpc.RpcError, OSError, http.client.HTTPException) as error:
                if isinstance(error, grpc.RpcError) and error.code() in PERMANENT:
                    raise
                # The service may come back on another HTTP port: Enroll tells it.
                self.http = ""
                time.sleep(0.05)
        raise AssertionError(f"device {self.number} saw no end of the job")


def json_get(url: str, token: str) -> Any:
    """What an operator reads."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.loads(response.read())


def run_sessions(devices: Sequence[FakeDevice]) -> None:
    """Lets devices work beside each other until the job has finished."""
    threads = [threading.Thread(target=device.session) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
