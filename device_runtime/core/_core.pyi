"""The kernels, as bound; `kernels.py` gives them a readable form. What runs programs: the package's stub."""

import enum
from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

class Status(enum.Enum):
    """What a kernel answers; `message(status)` puts it in words."""

    OK = 0
    OUT_OF_RANGE = 1
    BELOW_GRID = 2
    NOT_FINITE = 3
    OFF_GRID = 4
    BAD_ARGUMENT = 5
    PROGRAM_FAILED = 6
    PROGRAM_MISMATCH = 7
    OUT_OF_MEMORY = 8
    LOSS_NOT_FINITE = 9
    STOPPED = 10
    DAMAGED = 11

@final
class SliceDirection:
    """A direction on one slice of `count` parameters; scale and guides are that slice's own values."""

    def __init__(
        self,
        seed: int,
        isotropic_scale: float,
        scale: NDArray[np.float32] | None,
        guides: Sequence[tuple[NDArray[np.float32], float]],
        count: int,
    ) -> None: ...

def message(status: Status) -> str: ...
def perturb(
    theta: NDArray[np.float32],
    start: int,
    exponent: int,
    epsilon: float,
    direction: SliceDirection,
    multiplier: int,
) -> Status: ...
def check_direction(
    start: int,
    count: int,
    exponent: int,
    epsilon: float,
    direction: SliceDirection,
    lanes_error: Sequence[float],
    lanes_norm: Sequence[float],
) -> tuple[Status, list[float], list[float]]: ...
def add_lanes(
    lanes_error: Sequence[float], lanes_norm: Sequence[float], exponent: int, error: float, norm: float
) -> tuple[float, float]: ...
def judge_direction(error: float, norm: float) -> Status: ...
def check_update(
    start: int,
    count: int,
    exponent: int,
    epsilon: float,
    update_seed: int,
    directions: Sequence[SliceDirection],
    coefficients: Sequence[float],
    guides: Sequence[tuple[NDArray[np.float32], float]],
) -> Status: ...
def update(
    theta: NDArray[np.float32],
    start: int,
    exponent: int,
    epsilon: float,
    update_seed: int,
    directions: Sequence[SliceDirection],
    coefficients: Sequence[float],
    guides: Sequence[tuple[NDArray[np.float32], float]],
) -> tuple[Status, int]: ...
def check_adapter(theta: NDArray[np.float32], exponent: int) -> Status: ...
def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]: ...
def xor_blocks(seed: int, stream: int, first_block: int, blocks: int) -> tuple[Status, int, int]: ...
def fill_signs(seed: int, start: int, signs: NDArray[np.int8]) -> Status: ...
def encode_integers(values: NDArray[np.int32]) -> bytes: ...
def decode_integers(data: bytes, values: NDArray[np.int32]) -> Status: ...
def encode_guide(values: NDArray[np.float32], step: float) -> tuple[Status, bytes]: ...
def decode_guide(data: bytes, values: NDArray[np.float32]) -> Status: ...
def instructions() -> str: ...
def use_instructions(name: str) -> Status: ...
