"""The C++ kernels against golden files, the NumPy reference and themselves, on every instruction set here."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.core import _core, kernels
from device_runtime.zo import direction as zo_direction
from device_runtime.zo import spsa
from device_runtime.zo.direction import Direction, Guide
from device_runtime.zo.errors import BelowGrid, NotFinite, OutOfRange
from device_runtime.zo.layout import Layout
from device_runtime.zo.philox import blocks
from tests.golden.blob import read_cases
from tests.golden.make import KNOWN_ANSWERS, words

Status = _core.Status
BEST = _core.instructions()


def has(instructions: str) -> bool:
    """Whether this machine can run an instruction set; leaves the best one chosen."""
    available = _core.use_instructions(instructions) is Status.OK
    _core.use_instructions(BEST)
    return available


@pytest.fixture(params=[name for name in ("baseline", "avx2", "avx512") if has(name)], autouse=True)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run every test once on each instruction set."""
    assert _core.use_instructions(request.param) is Status.OK
    yield str(request.param)
    _core.use_instructions(BEST)


def same_bits(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return left.dtype == right.dtype and left.tobytes() == right.tobytes()


def of_slice(case: dict[str, Any], count: int) -> _core.SliceDirection:
    guides = [(guide["values"], guide["coefficient"]) for guide in case["guides"]]
    return _core.SliceDirection(int(case["seed"], 16), case["isotropic_scale"], case["scale"], guides, count)


def test_known_answers_of_random123() -> None:
    for counter, key, output in KNOWN_ANSWERS:
        assert _core.philox(words(counter), words(key)) == words(output)


@pytest.mark.parametrize(("first_block", "count"), [(0, 0), (0, 1), (5, 127), (5, 128), (2**40 + 3, 1000)])
def test_blocks_combined_are_the_twins_blocks_combined(first_block: int, count: int) -> None:
    words_of = blocks(2**63 + 9, 1, first_block, count).reshape(-1, 4).astype(np.uint64)
    pairs = words_of[:, 0::2] | (words_of[:, 1::2] << np.uint64(32))
    low, high = (int(np.bitwise_xor.reduce(pairs[:, side])) for side in (0, 1))
    assert _core.xor_blocks(2**63 + 9, 1, first_block, count) == (Status.OK, low, high)


def test_golden_signs_and_adapters() -> None:
    for case in read_cases("philox"):
        if "signs" in case:
            signs = np.empty(case["count"], np.int8)
            assert _core.fill_signs(int(case["seed"], 16), int(case["start"], 16), signs) is Status.OK
            assert np.array_equal(signs, case["signs"])
    for case in read_cases("grid"):
        if "adapter" in case:
            assert _core.check_adapter(case["adapter"], case["exponent"]).name == case["status"], case["name"]


@pytest.mark.parametrize("case", read_cases("directions"), ids=lambda case: case["name"])
def test_golden_directions(case: dict[str, Any]) -> None:
    start, exponent, epsilon = case["start"], case["exponent"], case["epsilon"]
    theta: NDArray[np.float32] = case["adapter"].copy()
    direction = of_slice(case, len(theta))
    status, error, norm = _core.check_direction(
        start, len(theta), exponent, epsilon, direction, [0.0] * 8, [0.0] * 8
    )
    assert status.name == case["status"]
    if case["status"] == "BAD_ARGUMENT":
        assert _core.perturb(theta, start, exponent, epsilon, direction, 1) is Status.BAD_ARGUMENT
        assert same_bits(theta, case["adapter"])
    if case["status"] != "OK":
        return
    assert same_bits(np.array(error), case["lanes_error"])
    assert same_bits(np.array(norm), case["lanes_norm"])
    judged = _core.judge_direction(*_core.add_lanes(error, norm, exponent, 0.0, 0.0))
    assert judged.name == case["judgement"]
    for multiplier, expected in ((1, case["plus"]), (-2, case["minus"]), (1, case["adapter"])):
        assert _core.perturb(theta, start, exponent, epsilon, direction, multiplier) is Status.OK
        assert same_bits(theta, expected)


@pytest.mark.parametrize("case", read_cases("updates"), ids=lambda case: case["name"])
def test_golden_updates(case: dict[str, Any]) -> None:
    theta: NDArray[np.float32] = case["adapter"].copy()
    directions = [of_slice(direction, len(theta)) for direction in case["directions"]]
    guides = [(guide["values"], guide["coefficient"]) for guide in case["guides"]]
    start, exponent = case["start"], case["exponent"]
    step = (case["epsilon"], int(case["update_seed"], 16), directions, case["coefficients"], guides)
    assert _core.check_update(start, len(theta), exponent, *step).name == case["status"]
    status, clamped = _core.update(theta, start, exponent, *step)
    assert status.name == case["status"]
    if case["status"] == "OK":
        assert same_bits(theta, case["after"])
        assert clamped == case["clamped"]
    else:
        assert same_bits(theta, case["adapter"])


def random_layout(random: np.random.Generator) -> Layout:
    counts = random.integers(0, 700, 4)
    entries = [
        (f"t{i}", i // 2, (int(count),), int(random.integers(18, 22))) for i, count in enumerate(counts)
    ]
    return Layout.build(entries)


def random_adapter(random: np.random.Generator, layout: Layout) -> NDArray[np.float32]:
    adapter = np.zeros(layout.parameters, np.float32)
    for tensor in layout.tensors:
        steps = np.rint(random.uniform(-(2.0**23) + 1, 2.0**23 - 1, tensor.count)) + 0.0
        adapter[tensor.span] = steps * 2.0**-tensor.exponent
    return adapter


def random_direction(random: np.random.Generator, n: int) -> Direction:
    guides = tuple(
        Guide(random.normal(size=n).astype(np.float32), float(random.normal()))
        for _ in range(int(random.integers(0, 4)))
    )
    scale = np.exp(random.normal(size=n)).astype(np.float32) if random.random() < 0.5 else None
    active = ((0,), (1,), None)[int(random.integers(3))]
    return Direction(int(random.integers(2**63)), float(random.random()), scale, guides, active)


def test_random_cases_equal_the_reference_bit_for_bit() -> None:
    random = np.random.default_rng(11)
    for _ in range(40):
        layout = random_layout(random)
        start = random_adapter(random, layout)
        directions = tuple(random_direction(random, layout.parameters) for _ in range(3))
        for direction in directions:
            ours, theirs = start.copy(), start.copy()
            kernels.perturb(ours, layout, direction, 1e-3, -1)
            spsa.perturb(theirs, layout, zo_direction.rounded(direction, layout, 1e-3), -1)
            assert same_bits(ours, theirs)
            expected = zo_direction.squared_norms(direction, layout, 1e-3)
            assert kernels.squared_norms(direction, layout, 1e-3) == expected
        coefficients = tuple(float(c) for c in random.normal(size=3) * 1e-3)
        guide = Guide(random.normal(size=layout.parameters).astype(np.float32), 1e-4)
        update = spsa.Update(1e-3, int(random.integers(2**63)), directions, coefficients, (guide,), (1,))
        ours, theirs = start.copy(), start.copy()
        assert kernels.apply_update(ours, layout, update) == spsa.apply_update(theirs, layout, update)
        assert same_bits(ours, theirs)


LARGEST = 2.0**23 - 1  # grid steps
FRACTIONS = [0.0, 1e-30, 2**-18, 2**-17, 0.5, 1 - 2**-17, 1 - 2**-16, 1 - 2**-40]
LARGE = [
    1.0,
    7.25,
    2**20 + 2**-17,
    LARGEST - 0.5,
    2.0**23,
    2.0**24 - 1,
    2.0**24 + 0.7,
    2.0**25 - 2**-20,
    1e250,
]


@pytest.mark.parametrize("x", FRACTIONS + LARGE)
def test_steps_along_the_noise_equal_the_reference_at_every_edge(x: float) -> None:
    """One direction of one size: x is +x or -x for all parameters, many of them near a bound."""
    random = np.random.default_rng(16)
    layout = Layout.build([("a", 0, (67,), 20), ("b", 1, (3001,), -3), ("c", 2, (256,), 90)])
    start = random_adapter(random, layout)
    for tensor in layout.tensors:
        edge = (LARGEST - random.integers(0, 3, tensor.count)) * 2.0**-tensor.exponent
        kind = random.integers(0, 4, tensor.count)
        start[tensor.span] = np.choose(kind, [start[tensor.span], edge, -edge, np.zeros(tensor.count)])
        epsilon = 8.0 * 2.0**-tensor.exponent  # so that k is 8
        update = spsa.Update(epsilon, 77, (Direction(5),), (x / 8 * epsilon,), (), (tensor.segment,))
        ours, theirs = start.copy(), start.copy()
        clamped = kernels.apply_update(ours, layout, update)
        assert clamped == spsa.apply_update(theirs, layout, update)
        assert same_bits(ours, theirs)
        assert clamped > 0 or x < 0.5


def test_slices_and_threads_do_not_change_a_bit() -> None:
    random = np.random.default_rng(12)
    count, epsilon, exponent = 20_011, 1e-3, 20
    theta = np.zeros(count, np.float32)
    guide = random.normal(size=count).astype(np.float32)
    scale = np.exp(random.normal(size=count)).astype(np.float32)
    step = (epsilon, 99)

    def work(target: NDArray[np.float32], begin: int, end: int) -> None:
        part = [(guide[begin:end], 0.3)]
        direction = _core.SliceDirection(5, 0.7, scale[begin:end], part, end - begin)
        assert _core.perturb(target[begin:end], begin, exponent, epsilon, direction, 1) is Status.OK
        status, _ = _core.update(target[begin:end], begin, exponent, *step, [direction], [0.01], part)
        assert status is Status.OK

    whole = theta.copy()
    work(whole, 0, count)
    for threads in (1, 2, 3):
        cuts = [0, *sorted(int(cut) for cut in random.integers(0, count, 40)), count]
        cut = theta.copy()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda ends, target=cut: work(target, *ends), pairwise(cuts)))
        assert same_bits(cut, whole)


def test_lanes_may_be_summed_slice_after_slice() -> None:
    random = np.random.default_rng(13)
    guide = random.normal(size=5000).astype(np.float32)
    error, norm = [0.0] * 8, [0.0] * 8
    cuts = [0, 3, 1030, 1031, 4100, 5000]
    for begin, end in pairwise(cuts):
        part = _core.SliceDirection(5, 0.7, None, [(guide[begin:end], 0.3)], end - begin)
        status, error, norm = _core.check_direction(7 + begin, end - begin, 20, 1e-3, part, error, norm)
        assert status is Status.OK
    whole = _core.SliceDirection(5, 0.7, None, [(guide, 0.3)], 5000)
    assert _core.check_direction(7, 5000, 20, 1e-3, whole, [0.0] * 8, [0.0] * 8) == (Status.OK, error, norm)


def test_ten_thousand_cycles_restore_every_bit() -> None:
    """+k, -2k, +k along random directions, every fourth with guides and every third with a scale."""
    random = np.random.default_rng(14)
    layout = Layout.build([("a", 0, (67,), 20), ("b", 1, (130,), 17)])
    adapter = random_adapter(random, layout)
    adapter[::7] = 0.0
    before = adapter.copy()
    guides = [Guide(random.normal(size=197).astype(np.float32), float(c)) for c in (0.5, -2.0, 7.0)]
    scale = np.exp(random.normal(size=197)).astype(np.float32)
    for cycle in range(10_000):
        chosen = tuple(guides[: cycle % 4]) if cycle % 4 else ()
        direction = Direction(cycle, 0.5, scale if cycle % 3 == 0 else None, chosen)
        epsilon = float(2.0 ** random.uniform(-10, -3))
        kernels.check(direction, layout, epsilon)
        kernels.perturb(adapter, layout, direction, epsilon, 1)
        kernels.perturb(adapter, layout, direction, epsilon, -2)
        kernels.perturb(adapter, layout, direction, epsilon, 1)
    assert same_bits(adapter, before)


def test_refusals_are_those_of_the_reference() -> None:
    layout = Layout.build([("a", 0, (67,), 20), ("b", 1, (130,), 17)])
    adapter = np.zeros(layout.parameters, np.float32)
    for check in (zo_direction.check, kernels.check):
        with pytest.raises(OutOfRange):
            check(Direction(1, 1e9), layout, 1e-1)
        with pytest.raises(BelowGrid) as refused:
            check(Direction(1), layout, 1e-7)
        assert refused.value.exponent_increase == 11
    bad = Guide(np.full(layout.parameters, np.inf, np.float32), 1.0)
    with pytest.raises(NotFinite):
        kernels.apply_update(adapter, layout, spsa.Update(1e-3, 1, (), (), (bad,)))
    assert not np.any(adapter)


def test_arguments_that_are_not_allowed() -> None:
    theta = np.zeros(3, np.float32)
    direction = _core.SliceDirection(1, 1.0, None, [], 3)
    for exponent, epsilon, multiplier in [
        (101, 1e-3, 1),
        (-101, 1e-3, 1),
        (20, np.nan, 1),
        (20, 1e-3, 3),
        (20, 1e-3, 0),
    ]:
        assert _core.perturb(theta, 0, exponent, epsilon, direction, multiplier) is Status.BAD_ARGUMENT
    assert _core.perturb(theta, 2**64 - 2, 20, 1e-3, direction, 1) is Status.BAD_ARGUMENT
    assert _core.update(theta, 0, 20, 1e-3, 1, [direction], [np.inf], []) == (Status.BAD_ARGUMENT, 0)
    assert _core.use_instructions("abacus") is Status.BAD_ARGUMENT
    with pytest.raises(ValueError, match="another slice"):
        _core.perturb(theta[:2], 0, 20, 1e-3, direction, 1)
    with pytest.raises(ValueError, match="not as long"):
        _core.SliceDirection(1, 1.0, None, [(theta, 1.0)], 2)
    with pytest.raises(TypeError):
        _core.perturb(np.zeros(3), 0, 20, 1e-3, direction, 1)  # type: ignore[arg-type]
    assert not np.any(theta)


def test_every_status_has_its_line() -> None:
    lines = [_core.message(status) for status in Status]
    assert len(set(lines)) == len(lines) == 12
    assert all(line and "\n" not in line for line in lines)
