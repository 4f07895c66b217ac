"""What the user watches while a simulation runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from cooperllm.simulate.ledger import Ledger
from cooperllm.simulate.report import bytes_text
from cooperllm.simulate.stages import words

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live


class View(Protocol):
    """Somebody who watches. All methods return at once."""

    def say(self, line: str) -> None:
        """One fact that stays on the screen."""

    def begin(self, title: str, ledger: Ledger) -> None:
        """A federated run starts."""

    def refresh(self) -> None:
        """Something in the ledger may have changed."""

    def end(self) -> None:
        """The run is over."""


class Silent:
    """Nobody watches: output is JSON, or another program's business."""

    def say(self, line: str) -> None:
        """Say nothing."""

    def begin(self, title: str, ledger: Ledger) -> None:
        """Show nothing."""

    def refresh(self) -> None:
        """Show nothing."""

    def end(self) -> None:
        """Show nothing."""


class Lines:
    """Plain lines: each fact, and each scored version, once."""

    def __init__(self) -> None:
        self._title = ""
        self._ledger: Ledger | None = None
        self._shown: set[int] = set()

    def say(self, line: str) -> None:
        """Print it."""
        print(line, flush=True)

    def begin(self, title: str, ledger: Ledger) -> None:
        """Remember what to follow."""
        self._title, self._ledger, self._shown = title, ledger, set()

    def refresh(self) -> None:
        """Print the versions that were scored since the last time."""
        if self._ledger is None:
            return
        for version in sorted(self._ledger.scores.keys() - self._shown):
            self._shown.add(version)
            score, (down, up) = self._ledger.scores[version], traffic(self._ledger)
            self.say(
                f"  {self._title}: round {version}/{self._ledger.rounds}, accuracy {score.accuracy:.1%}, "
                f"loss {score.loss:.3f}, {bytes_text(down)} down, {bytes_text(up)} up{_stage(self._ledger)}"
            )

    def end(self) -> None:
        """Print what is left."""
        self.refresh()
        self._ledger = None


class Terminal:
    """A progress bar, accuracy so far, traffic, and what every device is doing; redrawn 8 times a second."""

    REFRESH_S = 0.125

    def __init__(self, live: Live) -> None:
        self._live = live
        self._title = ""
        self._ledger: Ledger | None = None
        self._started_s = self._drawn_s = 0.0

    def say(self, line: str) -> None:
        """Print it above the table."""
        self._live.console.print(line, highlight=False, markup=False)

    def begin(self, title: str, ledger: Ledger) -> None:
        """Start drawing this run."""
        self._title, self._ledger, self._started_s = title, ledger, time.monotonic()
        self.refresh()

    def refresh(self) -> None:
        """Draw again, unless that was done a moment ago."""
        if self._ledger is not None and time.monotonic() - self._drawn_s >= self.REFRESH_S:
            self._drawn_s = time.monotonic()
            self._live.update(
                picture(self._title, self._ledger, self._drawn_s - self._started_s), refresh=True
            )

    def end(self) -> None:
        """Leave one line of it on the screen."""
        ledger, self._ledger = self._ledger, None
        if ledger is None:
            return
        self._live.update("", refresh=True)
        if (score := ledger.last_score) is not None:
            down, up = traffic(ledger)
            self.say(
                f"  {self._title}: accuracy {score.accuracy:.1%} after {ledger.version} rounds in "
                f"{time.monotonic() - self._started_s:.0f} s, {bytes_text(down)} down, {bytes_text(up)} up"
            )


def picture(title: str, ledger: Ledger, elapsed_s: float) -> Group:
    """Arrange the state of a run for a terminal."""
    from rich.console import Group  # loaded only where somebody watches
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(padding=(0, 2))
    done = max(ledger.version, 0)
    score, (down, up) = ledger.last_score, traffic(ledger)
    head.add_row(
        Text(title, style="bold"),
        ProgressBar(total=ledger.rounds, completed=done, width=28),
        f"round {done}/{ledger.rounds}{_stage(ledger)}",
        f"{elapsed_s:.0f} s",
        Text(
            "" if score is None else f"accuracy {score.accuracy:.1%}  loss {score.loss:.3f}",
            style="bold green",
        ),
        f"↓ {bytes_text(down)}  ↑ {bytes_text(up)}",
    )
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("device", "phase", "version", "down", "up"):
        table.add_column(name, justify="left" if name in ("device", "phase") else "right", min_width=8)
    for name, device in ledger.devices.items():
        table.add_row(
            name,
            Text(device.phase, style=PHASE_STYLES.get(device.phase, "")),
            "-" if device.version < 0 else str(device.version),
            bytes_text(device.downlink_bytes),
            bytes_text(device.uplink_bytes),
        )
    return Group(head, table)


def _stage(ledger: Ledger) -> str:
    return f", {words(ledger.stage)}" if ledger.stage else ""


PHASE_STYLES: dict[str, str] = {
    "compute": "green",
    "fetch": "cyan",
    "guides": "cyan",
    "report": "magenta",
    "wait": "dim",
    "finished": "dim",
    "gone": "bold red",
}


def traffic(ledger: Ledger) -> tuple[int, int]:
    """Sum (down, up) over all devices, in bytes."""
    devices = ledger.devices.values()
    return sum(device.downlink_bytes for device in devices), sum(device.uplink_bytes for device in devices)


@contextmanager
def watching(output_format: str) -> Iterator[View]:
    """Give the view that fits: silent for "json", a live table on a terminal, plain lines otherwise."""
    if output_format == "json":
        yield Silent()
    elif not sys.stdout.isatty():
        yield Lines()
    else:
        from rich.live import Live

        with Live(auto_refresh=False) as live:
            yield Terminal(live)
