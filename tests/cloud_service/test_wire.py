"""What devices may send. Every row breaks one rule; the message before the change passes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cloud_service import signatures, wire
from protos import federation_pb2 as pb

ADAPTER = bytes(range(32))
NOW_MS = 1_700_000_000_000


def der(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


KEY = ec.derive_private_key(4711, ec.SECP256R1())


def enrollment() -> pb.EnrollRequest:
    return pb.EnrollRequest(public_key=der(KEY), device_name="phone")


def check_in() -> pb.CheckInRequest:
    budget = pb.DisclosureBudget(max_scalars_per_round=4, min_batch_examples=8)
    return pb.CheckInRequest(protocol_version=1, budget=budget)


def report() -> pb.Report:
    found = pb.Report(
        task_id="t",
        report_id="r",
        status=pb.REPORT_STATUS_OK,
        adapter_sha256=ADAPTER,
        scalars=[1.0, -2.0],
        examples=8,
    )
    found.timing.spans.add(name="compute", start_ms=1, end_ms=2)
    return found


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(wire.WireError) as caught:
        action()
    assert caught.value.detail
    assert "\n" not in caught.value.detail
    return caught.value.status


def test_good_messages_pass() -> None:
    assert wire.check_enroll(enrollment(), "") == wire.client_id_of(der(KEY))
    wire.check_check_in(check_in())
    wire.check_report(report())
    wire.check_directions_report(report(), 2, ADAPTER, 2.0)
    evaluated = pb.Report(adapter_sha256=ADAPTER, evaluation=pb.Evaluation(loss=0.5, correct=1, count=1))
    wire.check_evaluation_report(evaluated, ADAPTER)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda m: m.ClearField("public_key"), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "public_key", b"x" * 257), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "public_key", m.public_key[:-1]), "INVALID_ARGUMENT"),
        (
            lambda m: setattr(m, "public_key", der(ec.derive_private_key(5, ec.SECP384R1()))),
            "INVALID_ARGUMENT",
        ),
        (lambda m: setattr(m, "public_key", der(rsa.generate_private_key(65537, 1024))), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "device_name", "x" * 65), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "device_name", "a\nb"), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "enrollment_token", "guess"), "PERMISSION_DENIED"),
    ],
)
def test_enrollments(change: Callable[[pb.EnrollRequest], None], status: str) -> None:
    message = enrollment()
    message.enrollment_token = "secret"
    wire.check_enroll(message, "secret")
    change(message)
    assert refusal(lambda: wire.check_enroll(message, "secret")) == status


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda m: setattr(m, "protocol_version", 2), "FAILED_PRECONDITION"),
        (lambda m: setattr(m, "bundle_sha256", b"x"), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "adapter_sha256", b"x" * 33), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "adapter_version", 2**63), "INVALID_ARGUMENT"),
        (lambda m: m.ClearField("budget"), "INVALID_ARGUMENT"),
        (lambda m: setattr(m.budget, "min_batch_examples", 7), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "download_bytes_per_s", float("nan")), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "download_bytes_per_s", -1.0), "INVALID_ARGUMENT"),
    ],
)
def test_check_ins(change: Callable[[pb.CheckInRequest], None], status: str) -> None:
    message = check_in()
    change(message)
    assert refusal(lambda: wire.check_check_in(message)) == status


def check(message: pb.Report) -> None:
    wire.check_report(message)
    wire.check_directions_report(message, 2, ADAPTER, 2.0)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda m: m.ClearField("task_id"), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "task_id", "x" * 65), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "report_id", "a\x00"), "INVALID_ARGUMENT"),
        (lambda m: m.ClearField("report_id"), "INVALID_ARGUMENT"),
        (lambda m: m.ClearField("status"), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "status", 99), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "detail", "x" * 513), "INVALID_ARGUMENT"),
        (lambda m: m.ClearField("adapter_sha256"), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "adapter_sha256", b"\x00" * 32), "FAILED_PRECONDITION"),
        (lambda m: m.scalars.append(0.0), "INVALID_ARGUMENT"),
        (lambda m: m.ClearField("scalars"), "INVALID_ARGUMENT"),
        (lambda m: m.scalars.__setitem__(0, float("nan")), "INVALID_ARGUMENT"),
        (lambda m: m.scalars.__setitem__(0, float("inf")), "INVALID_ARGUMENT"),
        (lambda m: m.scalars.__setitem__(0, 2.1), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "examples", 7), "INVALID_ARGUMENT"),
        (lambda m: m.segment_scores.append(float("nan")), "INVALID_ARGUMENT"),
        (lambda m: setattr(m.timing.spans[0], "end_ms", 0.5), "INVALID_ARGUMENT"),
        (lambda m: setattr(m.timing.spans[0], "start_ms", float("nan")), "INVALID_ARGUMENT"),
        (lambda m: setattr(m.timing.spans[0], "name", "x" * 33), "INVALID_ARGUMENT"),
        (lambda m: setattr(m.timing, "uplink_bytes", 2**63), "INVALID_ARGUMENT"),
        (lambda m: m.timing.segment_ms.append(float("inf")), "INVALID_ARGUMENT"),
        (lambda m: m.timing.segment_ms.append(-1.0), "INVALID_ARGUMENT"),
        (lambda m: m.timing.segment_ms.extend([1.0] * (wire.MAX_SEGMENTS + 1)), "INVALID_ARGUMENT"),
        (lambda m: m.timing.spans.extend([pb.Span(name="x")] * wire.MAX_SPANS), "INVALID_ARGUMENT"),
    ],
)
def test_reports(change: Callable[[pb.Report], None], status: str) -> None:
    message = report()
    change(message)
    assert refusal(lambda: check(message)) == status


def scores_report() -> pb.Report:
    found = report()
    del found.scalars[:]
    found.segment_scores.extend([1.0 + 1e-9, 0.5, 0.0])
    return found


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda m: m.segment_scores.append(0.5), "INVALID_ARGUMENT"),
        (lambda m: m.segment_scores.pop(), "INVALID_ARGUMENT"),
        (lambda m: m.ClearField("segment_scores"), "INVALID_ARGUMENT"),
        (lambda m: m.segment_scores.__setitem__(0, 1.001), "INVALID_ARGUMENT"),
        (lambda m: m.segment_scores.__setitem__(2, -0.001), "INVALID_ARGUMENT"),
        (lambda m: m.segment_scores.__setitem__(1, float("nan")), "INVALID_ARGUMENT"),
        (lambda m: m.segment_scores.__setitem__(1, float("inf")), "INVALID_ARGUMENT"),
        (lambda m: m.scalars.append(1.0), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "examples", 7), "INVALID_ARGUMENT"),
        (lambda m: setattr(m, "adapter_sha256", b"\x00" * 32), "FAILED_PRECONDITION"),
    ],
)
def test_reports_of_segment_scores(change: Callable[[pb.Report], None], status: str) -> None:
    def check_scores(message: pb.Report) -> None:
        wire.check_report(message)
        wire.check_scores_report(message, 3, ADAPTER)

    message = scores_report()
    check_scores(message)
    change(message)
    assert refusal(lambda: check_scores(message)) == status


@pytest.mark.parametrize(
    "evaluation",
    [
        None,
        {"loss": -1.0, "correct": 1, "count": 2},
        {"loss": float("nan"), "correct": 1, "count": 2},
        {"loss": 1.0, "correct": 3, "count": 2},
        {"loss": 1.0, "correct": 0, "count": 0},
    ],
)
def test_evaluations(evaluation: dict[str, float] | None) -> None:
    message = pb.Report(adapter_sha256=ADAPTER)
    if evaluation is not None:
        message.evaluation.loss = evaluation["loss"]
        message.evaluation.correct, message.evaluation.count = (
            int(evaluation["correct"]),
            int(evaluation["count"]),
        )
    assert refusal(lambda: wire.check_evaluation_report(message, ADAPTER)) == "INVALID_ARGUMENT"


def test_only_the_signed_bytes_pass() -> None:
    signed = signatures.signed_call("/cooperllm.v1.Federation/CheckIn", str(NOW_MS), b"request")
    signature = KEY.sign(signed, ec.ECDSA(hashes.SHA256()))
    signatures.check_signature(der(KEY), signature, signed)
    other = ec.derive_private_key(4712, ec.SECP256R1())
    for key, proof, text in [
        (KEY, signature, signed + b"x"), (other, signature, signed), (KEY, b"", signed), (KEY, b"x" * 81,
        signed), (KEY, signature[:-1], signed),
    ]:  # fmt: skip
        assert (
            refusal(lambda k=key, p=proof, t=text: signatures.check_signature(der(k), p, t))
            == "UNAUTHENTICATED"
        )
    assert refusal(lambda: signatures.signature_bytes("zz")) == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("client_id", "time_ms"),
    [
        ("", str(NOW_MS)),
        ("0" * 31, str(NOW_MS)),
        ("G" * 32, str(NOW_MS)),
        ("0" * 32, ""),
        ("0" * 32, "-1"),
        ("0" * 32, "1e9"),
        ("0" * 32, "9" * 16),
        ("0" * 32, str(NOW_MS - 300_001)),
        ("0" * 32, str(NOW_MS + 300_001)),
    ],
)
def test_identities(client_id: str, time_ms: str) -> None:
    signatures.check_identity("0" * 32, str(NOW_MS - 300_000), NOW_MS)
    assert refusal(lambda: signatures.check_identity(client_id, time_ms, NOW_MS)) == "UNAUTHENTICATED"


def test_random_bytes_never_raise_anything_else() -> None:
    """Fuzz: altered and random bytes are either a message that the checks judge, or refused."""
    draw = random.Random(1)
    good = report().SerializeToString()
    outcomes = set()
    for _ in range(3000):
        data = bytearray(good) if draw.random() < 0.7 else bytearray(draw.randbytes(draw.randrange(80)))
        for _ in range(draw.randrange(1, 4)):
            if data:
                data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            check(wire.parse(pb.Report(), bytes(data)))
            outcomes.add("passed")
        except wire.WireError as error:
            outcomes.add(error.status)
    assert outcomes == {"passed", "INVALID_ARGUMENT", "FAILED_PRECONDITION"}


def test_a_message_over_the_limit_is_not_parsed() -> None:
    data = bytes(wire.MAX_MESSAGE_BYTES + 1)
    assert refusal(lambda: wire.parse(pb.Report(), data)) == "RESOURCE_EXHAUSTED"
