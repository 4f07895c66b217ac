"""The link between one device and the service: how fast, how far, how steady; as text and as numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from device_runtime.errors import OptionError

# Lighthouse's "slow 4G" (about the worst quarter of 4G), WebPageTest's "LTE" and Firefox's "Wi-Fi", with
# some jitter on top, which those leave out.
PRESETS: Mapping[str, str] = {
    "4g": "down=12mbit,up=12mbit,rtt=70ms,jitter=10ms",
    "poor-4g": "down=1.6mbit,up=750kbit,rtt=150ms,jitter=30ms",
    "wifi": "down=30mbit,up=15mbit,rtt=2ms,jitter=1ms",
}

_RATES = {"bit": 1 / 8, "kbit": 1e3 / 8, "mbit": 1e6 / 8, "gbit": 1e9 / 8}
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_SIZES = {"kb": 1e3, "mb": 1e6, "gb": 1e9}
_FORM = (
    f"use {', '.join(PRESETS)}, or down=RATE,up=RATE and any of rtt=, jitter=, stall=, reset=, "
    'as in "down=2mbit,up=1mbit,rtt=80ms,jitter=5ms,stall=2s/60s,reset=20MB"'
)


@dataclass(frozen=True)
class Link:
    """One device's link. Rates are of TCP payload, each way; they are shared by all connections.

    `rtt_s` is the round trip without load; every piece of data takes half of it plus up to `jitter_s`, drawn
    uniformly. Nothing gets through for `stall_s`, `stall_every_s` apart on average (0: never). All
    connections break whenever `reset_every_bytes` have come down, on average (0: never).
    """

    down_bytes_per_s: float
    up_bytes_per_s: float
    rtt_s: float = 0.0
    jitter_s: float = 0.0
    stall_s: float = 0.0
    stall_every_s: float = 0.0
    reset_every_bytes: float = 0.0

    def __post_init__(self) -> None:
        if min(self.down_bytes_per_s, self.up_bytes_per_s) < 100:
            raise OptionError("a link slower than 800bit a second moves nothing in time: make it faster")
        if max(self.down_bytes_per_s, self.up_bytes_per_s) > 1.25e9:
            raise OptionError("a link faster than 10gbit a second is beyond this machine: make it slower")
        if max(self.rtt_s, self.jitter_s) > 60:
            raise OptionError("a link's rtt and jitter are at most 60s: make them shorter")

    @staticmethod
    def parse(text: str) -> Link:
        """Read "down=2mbit,up=1mbit,rtt=80ms", or a preset, which further fields may change: "4g,rtt=90ms".

        Raises OptionError, one line that says what may be written: show it, correct it.
        """
        first, _, rest = text.strip().partition(",")
        given = ",".join((PRESETS[first.strip().lower()], rest)) if first.strip().lower() in PRESETS else text
        fields: dict[str, str] = {}
        for part in filter(None, (part.strip() for part in given.split(","))):
            name, equals, value = part.partition("=")
            if not equals:
                raise OptionError(f"--link {text}: {part} is no known link; {_FORM}")
            fields[name.strip().lower()] = value.strip().lower()
        if not {"down", "up"} <= set(fields):
            raise OptionError(f"--link {text}: both down= and up= are needed; {_FORM}")
        if unknown := sorted(set(fields) - {"down", "up", "rtt", "jitter", "stall", "reset"}):
            raise OptionError(f"--link {text}: {unknown[0]}= is not known; {_FORM}")
        lasts, _, every = fields.get("stall", "0s/0s").partition("/")
        stall_s, stall_every_s = _time_s(text, "stall", lasts), _time_s(text, "stall", every)
        if bool(stall_s) != bool(stall_every_s):
            raise OptionError(f"--link {text}: stall=2s/60s is a stall of 2 s every 60 s; {_FORM}")
        try:
            return Link(
                _number(text, "down", fields["down"], _RATES),
                _number(text, "up", fields["up"], _RATES),
                _time_s(text, "rtt", fields.get("rtt", "0ms")),
                _time_s(text, "jitter", fields.get("jitter", "0ms")),
                stall_s,
                stall_every_s,
                _number(text, "reset", fields.get("reset", "0kb"), _SIZES),
            )
        except OptionError as error:
            raise OptionError(
                error.message if "--link" in str(error) else f"--link {text}: {error}"
            ) from None

    def __str__(self) -> str:
        """For people: "2 Mbit/s down, 1 Mbit/s up, 80 ms round trip"."""
        words = [f"{_rate(self.down_bytes_per_s)} down", f"{_rate(self.up_bytes_per_s)} up"]
        if self.rtt_s:
            words.append(f"{1000 * self.rtt_s:g} ms round trip")
        if self.jitter_s:
            words.append(f"up to {1000 * self.jitter_s:g} ms jitter")
        if self.stall_s:
            words.append(f"stalls of {self.stall_s:g} s every {self.stall_every_s:g} s")
        if self.reset_every_bytes:
            words.append(f"reset every {self.reset_every_bytes / 1e3:g} kB")
        return ", ".join(words)


def parse_links(text: str) -> tuple[Link, ...]:
    """Read one link, or several that are separated by `;`. Raises OptionError: show it, correct it."""
    parts = [part for part in text.split(";") if part.strip()]
    if not parts:
        raise OptionError(f"--link: {_FORM}")
    return tuple(Link.parse(part) for part in parts)


def link_of(links: tuple[Link, ...], device: int) -> Link:
    """The link of a device: links are given out in turn."""
    return links[device % len(links)]


def _number(text: str, name: str, value: str, units: Mapping[str, float]) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]+)", value)
    if found is None or found[2] not in units:
        raise OptionError(f"--link {text}: {name}={value} needs a number with {', '.join(units)}; {_FORM}")
    number = float(found[1]) * units[found[2]]
    if not math.isfinite(number):
        raise OptionError(f"--link {text}: {name}={value} is too large; {_FORM}")
    return number


def _time_s(text: str, name: str, value: str) -> float:
    return _number(text, name, value, _TIMES)


def _rate(bytes_per_s: float) -> str:
    for size, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if 8 * bytes_per_s >= size:
            return f"{8 * bytes_per_s / size:g} {unit}"
    return f"{8 * bytes_per_s:g} bit/s"
