"""Debian's enjarify 1.0.3 with one repair: it reads const-wide/32 (opcode 0x17) without its sign.

So a negative long becomes a large positive one, and its class does not translate.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

CONST_WIDE_32 = 0x17
sys.path.insert(0, "/usr/lib/python3/dist-packages")
formats: Any = importlib.import_module("enjarify.dalvikformats")
plain = formats.decode


def decode(shorts: Sequence[int], position: int, opcode: int) -> tuple[int, Any]:
    """As enjarify's own, with the sign."""
    end, values = plain(shorts, position, opcode)
    if opcode == CONST_WIDE_32:
        values = (*values[:-1], formats.sign(values[-1], 32))
    return end, values


formats.decode = decode
importlib.import_module("enjarify.main").main()
