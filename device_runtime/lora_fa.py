"""LoRA-FA's frozen factors: a function of the manifest's seed, so that export and cloud have the same A."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

from device_runtime.zo.philox import half_words


def frozen_factor(seed: int, name: str, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """One frozen A, float32 [r, in], uniform in ±1/sqrt(in) as PEFT draws it, to 16 bits.

    A_i = ((2 h_i + 1) / 2^16 − 1) / sqrt(in), where h_i are the half-words (device_runtime/zo/philox.py) of
    the key that SHA-256 makes of seed and name: the same bits on every machine.

    Args:
        seed: the manifest's `adapter.seed`.
        name: of the tensor, "….lora_A.weight".
        shape: (r, in).
    """
    key = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "little")
    words = half_words(key, 0, math.prod(shape)).astype(np.float64)
    unit = (2.0 * words + 1.0) / 2.0**16 - 1.0
    return (unit / math.sqrt(shape[1])).astype(np.float32).reshape(shape)
