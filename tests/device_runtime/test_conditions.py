"""What Linux's files say about a device's conditions, and how often they are asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_runtime.conditions import CONDITIONS, Conditions, LinuxConditions
from device_runtime.errors import OptionError
from device_runtime.limits import Limits, Watch

ROUTES = "Iface\tDestination\tGateway\tFlags\n{0}\t00000000\t0102\t0003\n{0}\t0002\t0000\t0001\n"
PHONE = {
    "sys/class/thermal/thermal_zone0/temp": "41000",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "30000",
    "sys/class/thermal/thermal_zone0/trip_point_1_type": "hot",
    "sys/class/thermal/thermal_zone0/trip_point_1_temp": "60000",
    "sys/class/thermal/thermal_zone1/temp": "74999",
    "sys/class/thermal/cooling_device0/cur_state": "3",
    "sys/class/power_supply/AC/type": "Mains",
    "sys/class/power_supply/BAT0/type": "Battery",
    "sys/class/power_supply/BAT0/status": "Charging",
    "sys/class/power_supply/BAT0/capacity": "11",
    "sys/class/power_supply/mouse/type": "Battery",
    "sys/class/power_supply/mouse/scope": "Device",
    "sys/class/power_supply/mouse/status": "Discharging",
    "proc/loadavg": "1.99 5.00 5.00 1/99 4242",
    "proc/net/route": ROUTES.format("wlan0"),
    "sys/class/net/wlan0/type": "1",
    "sys/class/net/wlan0/uevent": "DEVTYPE=wlan\nINTERFACE=wlan0",
    "sys/class/net/wwan0/type": "1",
    "sys/class/net/wwan0/uevent": "DEVTYPE=wwan\nINTERFACE=wwan0",
    "sys/class/net/ppp0/type": "512",
    "sys/class/net/ppp0/uevent": "INTERFACE=ppp0",
}


def machine(root: Path, changes: dict[str, str | None]) -> LinuxConditions:
    """A root folder with a phone's files, some changed, some (None) left out."""
    for name, text in {**PHONE, **changes}.items():
        if text is not None:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
    return LinuxConditions(root, cores=4, cpu_s=lambda: 0.0)


def test_all_holds_on_a_cool_idle_phone_on_its_charger(tmp_path: Path) -> None:
    assert machine(tmp_path, {}).now() == dict.fromkeys(CONDITIONS, True)


BAT, ZONE = "sys/class/power_supply/BAT0/", "sys/class/thermal/thermal_zone"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({ZONE + "0/temp": "55000"}, {"cool": False}),  # five degrees below its hot trip point
        ({ZONE + "0/temp": "54999"}, {}),
        ({ZONE + "1/temp": "75000"}, {"cool": False}),  # it names no trip point
        ({ZONE + "1/temp": "garbage"}, {}),  # the other one is known
        ({ZONE + "0/temp": None, ZONE + "1/temp": None}, {"cool": None}),
        ({BAT + "status": "Discharging", BAT + "capacity": "19"}, {"charging": False, "battery": False}),
        ({BAT + "status": "Discharging", BAT + "capacity": "20"}, {"charging": False}),
        ({BAT + "status": "Discharging", BAT + "capacity": None}, {"charging": False, "battery": None}),
        ({BAT + "status": "Full"}, {}),
        ({BAT + "status": "Unknown"}, {"charging": None, "battery": None}),
        ({BAT + "type": None}, {}),  # a machine without a battery
        ({"proc/loadavg": "2.00 0.00 0.00 1/99 4242"}, {"idle": False}),
        ({"proc/loadavg": ""}, {"idle": None}),
        ({"proc/loadavg": None}, {"idle": None}),
        ({"proc/net/route": ROUTES.format("wwan0")}, {"unmetered": False}),
        ({"proc/net/route": ROUTES.format("ppp0")}, {"unmetered": False}),
        ({"proc/net/route": ROUTES.format("tun7")}, {"unmetered": None}),
        ({"proc/net/route": "Iface\tDestination\n"}, {"unmetered": None}),
        ({"proc/net/route": None}, {"unmetered": None}),
    ],
)
def test_each_condition_follows_its_files(
    tmp_path: Path, changes: dict[str, str | None], expected: dict[str, bool | None]
) -> None:
    assert machine(tmp_path, changes).now() == dict.fromkeys(CONDITIONS, True) | expected


def test_a_machine_that_tells_nothing_leaves_all_unknown(tmp_path: Path) -> None:
    assert LinuxConditions(tmp_path).now() == dict.fromkeys(CONDITIONS)


def test_a_devices_own_work_does_not_make_it_busy(tmp_path: Path) -> None:
    """Two threads compute for five minutes, then none: the load average follows, and is never held against
    them.
    """
    now_s, cpu_s = [0.0], [0.0]
    machine(tmp_path, {})
    found = LinuxConditions(tmp_path, cores=4, clock=lambda: now_s[0], cpu_s=lambda: cpu_s[0])
    own_load, idle = 0.0, []
    for threads in [2.0] * 30 + [0.0] * 12:
        now_s[0] += 10.0
        cpu_s[0] += 10.0 * threads
        own_load += (threads - own_load) * (1 - 2.718281828 ** (-10 / 60))
        (tmp_path / "proc/loadavg").write_text(f"{own_load + 1.5:.2f} 0 0 1/9 9")
        idle.append(found.now()["idle"])
    assert own_load < 0.3
    assert idle == [True] * 42
    (tmp_path / "proc/loadavg").write_text(f"{own_load + 2.5:.2f} 0 0 1/9 9")
    assert found.now()["idle"] is False


class Scripted:
    """Answers from a dictionary, and counts how often it is asked."""

    def __init__(self, **found: bool | None) -> None:
        self.found, self.asked = found, 0

    def now(self) -> dict[str, bool | None]:
        self.asked += 1
        return dict(self.found)


def watch(conditions: Conditions | None, now_s: list[float], **limits: object) -> Watch:
    return Watch(Limits(**limits), conditions, clock=lambda: now_s[0])  # type: ignore[arg-type]


def test_conditions_are_asked_at_most_once_a_second() -> None:
    conditions, now_s = Scripted(idle=True, cool=True), [50.0]
    watched = watch(conditions, now_s, require=frozenset({"idle", "cool"}))
    conditions.asked = 0
    assert [watched.missing() for _ in range(1000)] == [[]] * 1000
    assert conditions.asked == 1
    conditions.found = {"idle": False, "cool": None}
    now_s[0] = 50.999
    assert watched.missing() == []
    now_s[0] = 51.0
    assert watched.missing() == ["cool", "idle"]  # what is unknown does not hold
    assert conditions.asked == 2


def test_without_requirements_nobody_is_asked() -> None:
    conditions, now_s = Scripted(idle=False), [0.0]
    watched = watch(conditions, now_s)
    assert (watched.missing(), conditions.asked, watched.time_is_up) == ([], 0, False)
    assert watched.within_session(60.0) == 60.0


def test_a_session_ends_after_its_duration_and_the_next_has_it_anew() -> None:
    now_s = [10.0]
    watched = watch(None, now_s, max_duration_s=5.0)
    assert not watched.time_is_up
    watched.begin_session()
    now_s[0] = 14.0
    assert (watched.time_is_up, watched.within_session(0.25), watched.within_session(9.0)) == (False, 0.25, 1)
    now_s[0] = 15.0
    assert (watched.time_is_up, watched.within_session(9.0)) == (True, 0.0)
    watched.begin_session()
    assert not watched.time_is_up


def test_what_cannot_be_known_or_makes_no_sense_cannot_be_required() -> None:
    with pytest.raises(OptionError, match="does not tell whether it is idle"):
        watch(Scripted(idle=None), [0.0], require=frozenset({"idle"}))
    with pytest.raises(OptionError, match="pass conditions"):
        watch(None, [0.0], require=frozenset({"idle"}))
    with pytest.raises(OptionError, match="'sunny' is no condition: use some of cool, "):
        Limits(require=frozenset({"sunny"}))
    for wrong in ({"max_memory_bytes": 0}, {"max_duration_s": 0.0}, {"max_duration_s": float("nan")}):
        with pytest.raises(OptionError, match="no limit"):
            Limits(**wrong)  # type: ignore[arg-type]
