"""Directions that cover the adapter by name and a few parameters in effect."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.budget import Disclosure
from device_runtime.concentration import Supplies, _Squares, weigh
from device_runtime.errors import BudgetExceeded, UnsupportedTask
from device_runtime.zo import direction as zo
from device_runtime.zo.layout import Layout
from protos import federation_pb2 as pb

HEAD = 3
LAYOUT = Layout.build(
    [(f"layer.{k}", k, (40, 100), 20) for k in range(HEAD)]
    + [("head.bias", HEAD, (8,), 20), ("head.weight", HEAD, (8, 100), 20)]
)
SPANS = {segment: LAYOUT.segment_slice(segment) for segment in range(HEAD + 1)}
OF_HEAD = SPANS[HEAD]
BIAS = OF_HEAD.start
GUIDE = b"g" * 32
Float32 = NDArray[np.float32]


def task(*directions: pb.Direction, active: tuple[int, ...] = (0, 1, 2, HEAD)) -> pb.DirectionsTask:
    step = pb.Step(batch_examples=8, directions=directions)
    return pb.DirectionsTask(epsilon=0.01, active_segments=active, steps=[step])


def noise(count: int = 10, seed: int = 1, scale: float = 1.0, **fields: int) -> pb.Direction:
    return pb.Direction(seed=seed, count=count, isotropic_scale=scale, **fields)  # type: ignore[arg-type]


def guided(
    count: int = 10, seed: int = 1, scale: float = 1.0, guide: bytes = GUIDE, coefficient: float = 1.0
) -> pb.Direction:
    direction = noise(count, seed, scale)
    direction.guides.add(guide_sha256=guide, coefficient=coefficient)
    return direction


def ones() -> Float32:
    return np.ones(LAYOUT.parameters, np.float32)


def look(
    wanted: pb.DirectionsTask, scale: Float32 | None = None, **guides: Float32
) -> tuple[int, int] | Disclosure:
    by_segment = {
        name.encode() * 32: {segment: values[span] for segment, span in SPANS.items()}
        for name, values in guides.items()
    }
    return weigh(wanted, Supplies(scale, by_segment), SPANS, HEAD)


def test_plain_noise_counts_by_its_segments() -> None:
    assert look(task(noise())) == Disclosure(10, 0)
    assert look(task(noise(), active=(HEAD,))) == Disclosure(10, 10)
    assert look(task(noise(5), noise(3, seed=9, active_segments=[HEAD]))) == Disclosure(8, 3)  # type: ignore[arg-type]


def test_a_scale_that_is_tiny_outside_the_head_makes_head_scalars() -> None:
    scale = ones()
    scale[: OF_HEAD.start] = 1e-6
    assert look(task(noise()), scale) == Disclosure(10, 10)
    scale[: OF_HEAD.start] = 0.25  # 12,000 / 16 against the head's 808
    assert look(task(noise()), scale) == Disclosure(10, 10)
    scale[: OF_HEAD.start] = 0.27
    assert look(task(noise()), scale) == Disclosure(10, 0)


def test_a_guide_that_outweighs_the_noise_in_the_head_makes_head_scalars() -> None:
    guide = np.zeros(LAYOUT.parameters, np.float32)
    guide[OF_HEAD] = np.random.default_rng(1).normal(size=808)
    assert look(task(guided()), g=guide) == Disclosure(10, 0)
    assert look(task(guided(coefficient=6.0)), g=guide) == Disclosure(10, 10)


def test_a_guide_that_cancels_the_noise_outside_the_head_is_seen() -> None:
    seed = 7
    plain = zo.Direction(seed)
    guide = np.zeros(LAYOUT.parameters, np.float32)
    for tensor in LAYOUT.tensors:
        if tensor.segment != HEAD:
            guide[tensor.span] = -zo.unrounded(plain, tensor)
    z = np.concatenate([zo.unrounded(plain, tensor) for tensor in LAYOUT.tensors]) + guide
    assert not np.any(z[: OF_HEAD.start])
    with pytest.raises(BudgetExceeded, match="in effect"):
        look(task(guided(1, seed)), g=guide)


@pytest.mark.parametrize("exact", [False, True])
def test_a_scale_that_leaves_one_bias_is_refused(exact: bool) -> None:
    scale = np.full(LAYOUT.parameters, 1e-3, np.float32)
    scale[BIAS] = 1.0
    wanted = task(noise(1, exact=exact), active=(HEAD,))
    with pytest.raises(BudgetExceeded, match=r"on 1\.0 parameters of segment 3") as refusal:
        look(wanted, scale)
    assert refusal.value.status == "REFUSED_DISCLOSURE_BUDGET"
    scale[OF_HEAD] = 1.0
    assert look(wanted, scale) == Disclosure(1, 1)


def test_a_large_bias_in_a_direction_that_is_spread_elsewhere_is_refused() -> None:
    scale = ones()
    scale[BIAS : BIAS + 2] = 40.0  # 3,200 of the energy of 16,000, and nearly all of the head's
    with pytest.raises(BudgetExceeded, match="of segment 3"):
        look(task(noise()), scale)


def test_a_guide_of_one_bias_is_refused_beside_noise_and_without() -> None:
    guide = np.zeros(LAYOUT.parameters, np.float32)
    guide[BIAS] = 100.0
    for scale in (0.0, 1.0):
        with pytest.raises(BudgetExceeded, match="in effect"):
            look(task(guided(1, scale=scale)), g=guide)


def test_what_two_directions_share_does_not_hide_what_they_do_not() -> None:
    """The difference of two scalars is about the difference of their directions."""
    head_alone = noise(4, boundary=HEAD, prefix_seed=3, per_prefix=4)
    assert look(task(head_alone)) == Disclosure(4, 4)
    assert look(task(noise(4, boundary=1, prefix_seed=3, per_prefix=4))) == Disclosure(4, 0)
    for other in (noise(1, seed=10, active_segments=[0, 1, 2]), noise(1, seed=2**64 - 1, scale=0.5)):  # type: ignore[arg-type]
        with pytest.raises(BudgetExceeded, match="same noise"):
            look(task(noise(10), other, noise(12, seed=2**64 - 10)))
    assert look(task(noise(10), noise(10))) == Disclosure(20, 0)
    spread = np.random.default_rng(2).normal(size=LAYOUT.parameters).astype(np.float32)
    nearly = spread.copy()
    nearly[BIAS] += 1.0
    assert look(task(guided(3, scale=0.0)), g=spread) == Disclosure(3, 3)
    with pytest.raises(BudgetExceeded, match="same noise"):
        look(task(guided(1, scale=0.0), guided(1, scale=0.0, guide=b"h" * 32)), g=spread, h=nearly)
    both = task(guided(5), guided(4, seed=100, guide=b"h" * 32))
    assert look(both, g=spread, h=nearly) == Disclosure(9, 4)


def test_the_spread_is_never_overstated() -> None:
    random = np.random.default_rng(5)
    for _ in range(40):
        p, q = random.exponential(size=9), random.exponential(size=9)
        low, high = (p - q) ** 2, (p + q) ** 2
        all_choices = (np.arange(2**9)[:, None] >> np.arange(9)) & 1
        z2 = np.where(all_choices == 1, high, low)
        exact = np.min(z2.sum(axis=1) ** 2 / (z2**2).sum(axis=1))
        found = _Squares(low, high).spread()
        assert 0.6 * exact < found <= exact * (1 + 1e-12)
    plain = _Squares(np.full(9, 2.0), np.full(9, 2.0))
    assert plain.spread() == pytest.approx(9)
    assert _Squares(np.zeros(9), np.zeros(9)).spread() == np.inf
    assert _Squares(np.zeros(3), np.array([4.0, 0.0, 0.0])).spread() == pytest.approx(1)


def test_numbers_that_no_direction_can_have_are_refused() -> None:
    with pytest.raises(UnsupportedTask, match="not finite"):
        look(task(noise(scale=float("nan"))))
    with pytest.raises(UnsupportedTask, match="not finite"):
        look(task(guided(coefficient=1e308)), g=ones() * np.float32(1e30))
    with pytest.raises(UnsupportedTask, match="not sent"):
        look(task(guided()))
    assert look(task(noise(scale=1e200)), ones() * np.float32(1e30)) == Disclosure(10, 0)


def test_a_form_is_looked_at_once() -> None:
    start_s = time.process_time()
    assert look(task(*[noise(1, seed) for seed in range(2000)])) == Disclosure(2000, 0)
    assert time.process_time() - start_s < 1.0
