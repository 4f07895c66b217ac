"""Under which conditions a device works: a small interface, and what Linux tells about each of them.

    cool        no thermal zone is within 5 degrees of its own hot or critical trip point, or above 75 C where
                it names none                                                          /sys/class/thermal
    charging    no battery is discharging; a machine without a battery counts as charging
    battery     charging, or every battery holds at least 20 %                         /sys/class/power_supply
    idle        over the last minute fewer threads wanted to run than half the cores, this process' own
                not counted                                                            /proc/loadavg
    unmetered   every interface with a default route is wired or Wi-Fi; mobile ones (WWAN, PPP) are metered
                                                                   /proc/net/route, /sys/class/net

What is not read: NetworkManager and ModemManager (D-Bus), so neither that a Wi-Fi is a phone's hotspot nor
that its owner called it metered is known here; whether a person is at the machine; peripherals' batteries.

Where the machine does not tell, the condition is unknown, and an unknown condition does not hold: who
requires it gets no work done, and is told so at the start. On Android the app answers instead, from the
system's own services.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

CONDITIONS = ("cool", "charging", "battery", "idle", "unmetered")

HOT_MARGIN_MC = 5_000  # thousandths of a degree Celsius, as the kernel writes them
HOT_MC = 75_000
LOW_BATTERY_PERCENT = 20
LOAD_AVERAGE_S = 60.0
MOBILE_KINDS = ("wwan",)
PPP_TYPE = 512  # ARPHRD_PPP


class Conditions(Protocol):
    """What a device is asked before it works, at most once a second."""

    def now(self) -> Mapping[str, bool | None]:
        """Whether each of CONDITIONS holds at this moment; None, or its absence, means that nobody knows."""
        ...


class LinuxConditions:
    """Reads the kernel's files under `root`; `cpu_s` are the seconds that this process has computed."""

    def __init__(
        self,
        root: str | Path = "/",
        cores: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        self._root, self._cores = Path(root), cores or len(os.sched_getaffinity(0))
        self._clock, self._cpu_s = clock, cpu_s
        self._seen_s, self._own_load = (clock(), cpu_s()), 0.0

    def now(self) -> Mapping[str, bool | None]:
        """Reads everything anew. A file that is missing or makes no sense is as good as none."""
        charging, battery = self._power()
        self._weigh_own_load()
        return {
            "cool": self._cool(),
            "charging": charging,
            "battery": battery,
            "idle": self._idle(),
            "unmetered": self._unmetered(),
        }

    def _cool(self) -> bool | None:
        known = [zone for zone in map(_zone_is_cool, self._folders("thermal")) if zone is not None]
        return all(known) if known else None

    def _power(self) -> tuple[bool | None, bool | None]:
        """(charging, battery)."""
        folder = self._root / "sys/class/power_supply"
        if not folder.is_dir():
            return None, None
        batteries = [
            supply
            for supply in self._folders("power_supply")
            if _text(supply / "type") == "Battery" and _text(supply / "scope") != "Device"
        ]
        states = [_text(supply / "status") for supply in batteries]
        if any(state not in ("Charging", "Discharging", "Full", "Not charging") for state in states):
            return None, None
        if all(state != "Discharging" for state in states):
            return True, True
        levels = [_number(supply / "capacity") for supply in batteries]
        known = [level for level in levels if level is not None]
        return False, (min(known) >= LOW_BATTERY_PERCENT if len(known) == len(levels) else None)

    def _idle(self) -> bool | None:
        words = (_text(self._root / "proc/loadavg") or "").split()
        try:
            return float(words[0]) - self._own_load < self._cores / 2
        except (IndexError, ValueError):
            return None

    def _weigh_own_load(self) -> None:
        """This process' part of the load average, which decays as the whole does: by e^(-seconds / 60)."""
        now_s, cpu_s = self._clock(), self._cpu_s()
        since_s = now_s - self._seen_s[0]
        if since_s > 0:
            decay = math.exp(-since_s / LOAD_AVERAGE_S)
            self._own_load = self._own_load * decay + (cpu_s - self._seen_s[1]) / since_s * (1 - decay)
            self._seen_s = (now_s, cpu_s)

    def _unmetered(self) -> bool | None:
        """None where no route leads out: what cannot be reached costs nothing, but is not known either."""
        rows = [line.split() for line in (_text(self._root / "proc/net/route") or "").splitlines()[1:]]
        names = sorted({row[0] for row in rows if len(row) > 1 and row[1] == "00000000"})
        known = [self._is_mobile(self._root / "sys/class/net" / name) for name in names]
        if not known or None in known:
            return None
        return not any(known)

    @staticmethod
    def _is_mobile(interface: Path) -> bool | None:
        kind = _number(interface / "type")
        event = (_text(interface / "uevent") or "").splitlines()
        if kind is None:
            return None
        return kind == PPP_TYPE or any(f"DEVTYPE={name}" in event for name in MOBILE_KINDS)

    def _folders(self, kind: str) -> Iterator[Path]:
        folder = self._root / "sys/class" / kind
        if folder.is_dir():
            yield from sorted(folder.iterdir())


def _zone_is_cool(zone: Path) -> bool | None:
    """None for what is no thermal zone (a fan, say), or tells no temperature."""
    temperature_mc = _number(zone / "temp")
    if not zone.name.startswith("thermal_zone") or temperature_mc is None:
        return None
    trips_mc = []
    for path in zone.glob("trip_point_*_type"):
        trip_mc = _number(path.with_name(path.name.replace("_type", "_temp")))
        if _text(path) in ("hot", "critical") and trip_mc is not None and trip_mc > 0:
            trips_mc.append(trip_mc)
    return temperature_mc < (min(trips_mc) - HOT_MARGIN_MC if trips_mc else HOT_MC)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    try:
        return int(_text(path) or "")
    except ValueError:
        return None
