"""A link is read from one line and written for people; anything else is one line that says what to write."""

import pytest

from cooperllm.simulate.link import PRESETS, Link, link_of, parse_links
from device_runtime.errors import OptionError


def test_a_line_becomes_numbers() -> None:
    link = Link.parse("down=2mbit, up=1Mbit,rtt=80ms,jitter=5ms,stall=2s/60s,reset=20MB")
    assert link == Link(250_000, 125_000, 0.08, 0.005, 2.0, 60.0, 20e6)
    assert Link.parse("down=0.5gbit,up=800bit,rtt=1s") == Link(62.5e6, 100.0, 1.0)


def test_a_preset_may_be_changed_by_further_fields() -> None:
    assert Link.parse("poor-4g") == Link.parse(PRESETS["poor-4g"])
    changed = Link.parse("4G,rtt=90ms,reset=1mb")
    assert (changed.rtt_s, changed.reset_every_bytes) == (0.09, 1e6)
    assert changed.down_bytes_per_s == Link.parse("4g").down_bytes_per_s


def test_several_links_go_to_devices_in_turn() -> None:
    links = parse_links("wifi; poor-4g ;")
    assert [link_of(links, device) for device in range(3)] == [
        Link.parse("wifi"), Link.parse("poor-4g"), Link.parse("wifi"),
    ]  # fmt: skip


def test_people_read_units() -> None:
    assert str(Link.parse("down=2mbit,up=750kbit,rtt=80ms")) == (
        "2 Mbit/s down, 750 kbit/s up, 80 ms round trip"
    )
    assert str(Link.parse("wifi,stall=2s/60s,reset=20MB")).endswith(
        "up to 1 ms jitter, stalls of 2 s every 60 s, reset every 20000 kB"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "--link: use 4g"),
        ("5g", "5g is no known link"),
        ("down=2mbit", "both down= and up= are needed"),
        ("down=2,up=1mbit", "down=2 needs a number with bit, kbit, mbit, gbit"),
        ("down=-2mbit,up=1mbit", "down=-2mbit needs a number"),
        ("down=nanmbit,up=1mbit", "needs a number"),
        ("down=2mbit,up=1mbit,rtt=80", "rtt=80 needs a number with us, ms, s"),
        ("4g,loss=1%", "loss= is not known"),
        ("4g,stall=2s", "stall= needs a number"),
        ("4g,stall=2s/0s", "stall=2s/60s is a stall of 2 s every 60 s"),
        ("4g,reset=1", "reset=1 needs a number with kb, mb, gb"),
        ("4g,rtt=90s", "at most 60s"),
        ("down=1bit,up=1mbit", "slower than 800bit"),
        ("down=11gbit,up=1mbit", "faster than 10gbit"),
    ],
)
def test_anything_else_is_one_line(text: str, line: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_links(text)
    assert line in str(caught.value)
    assert str(caught.value).startswith("--link")
    assert "\n" not in str(caught.value)
