"""The report says what the rows say: equal or not, how many bytes and points; and it escapes texts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cooperllm.simulate import pipelined, plots, records, report
from cooperllm.simulate.bits import GuideBits
from cooperllm.simulate.records import Crossing, Curve, Figure, RoundRow
from cooperllm.simulate.report import Findings
from tests.cooperllm.test_pipelined import overlapped

SHA256 = ["0a" * 32, "0b" * 32]


def row(version: int, accuracy: float | None, seed: int = 0) -> RoundRow:
    copies = {"device-0": SHA256[version % 2], "device-1": SHA256[version % 2]}
    return RoundRow("cooperllm", seed, version, SHA256[version % 2], copies, accuracy, 0.5, 1.5,
                    {"guides": 4_000_000, "tasks": 100}, {"reports": 1_500})  # fmt: skip


ROWS = [row(0, 0.5), row(1, None), row(2, 0.75)]


def findings(rows: list[RoundRow]) -> Findings:
    figures = [
        Figure("cooperllm", "with devices", "the run", [0.75, 0.77]),
        Figure("public_alone", "public data alone", "the bar", [0.60, 0.62]),
        Figure("shuffled", "labels shuffled", "nothing to learn", [0.40, 0.44]),
    ]
    curves = [Curve.of("cooperllm", 0, rows)]
    busy_s = {"compute": 3.0, "uplink": 1.0}
    title = "<b>data & co</b>.tsv"
    return Findings(title, "two rounds", figures, curves, rows, busy_s, {"seed": "0"}, {"system": "<none>"})


def test_rows_survive_their_file(tmp_path: Path) -> None:
    records.append_rows(tmp_path / "metrics.jsonl", ROWS[:2])
    records.append_rows(tmp_path / "metrics.jsonl", ROWS[2:])
    assert records.read_rows(tmp_path / "metrics.jsonl") == ROWS


def test_the_page_shows_points_bytes_and_equality(tmp_path: Path) -> None:
    page = report.write(tmp_path, findings(ROWS)).read_text()
    for shown in (
        "76.0%",
        "+15.0 pts",
        "+34.0 pts",
        "All 6 device copies of 3 versions",
        SHA256[0],
        "12.0 MB",
    ):
        assert shown in page, shown
    assert "75 %" in page  # compute's share of the devices' time
    assert "<b>data &amp; co" not in page
    assert "&lt;b&gt;data &amp; co&lt;/b&gt;.tsv" in page
    assert "<none>" not in page
    assert 'src="http' not in page
    assert 'href="metrics.jsonl"' not in page  # the file is not there


def test_links_are_shown_where_there_are_any(tmp_path: Path) -> None:
    crossings = [Crossing("device-0", "2 Mbit/s down", 12_300_000, 45_600)]
    page = report.render(dataclasses.replace(findings(ROWS), crossings=crossings), tmp_path)
    for shown in ("2 Mbit/s down", "12.3 MB", "45.6 kB"):
        assert shown in page, shown
    assert "<h2>Links</h2>" not in report.render(findings(ROWS), tmp_path)


def test_one_round_is_drawn_where_guides_were_sent(tmp_path: Path) -> None:
    typical = pipelined.typical(overlapped())
    guides = [GuideBits(number, {0: 2.5, 1: 1.0}, {5: 2}, 0.97) for number in range(3)]
    shown = dataclasses.replace(findings(ROWS), typical=typical, guides=guides)
    page = report.render(shown, tmp_path)
    assert "1.8 bits a parameter" in page
    assert "cosine 0.970" in page
    assert "One round, segment by segment" in page
    assert "0.85 s from the first segment" in page
    assert page.count("data:image/png;base64,") == 8
    assert "One round" not in report.render(findings(ROWS), tmp_path)


def test_a_single_different_copy_is_told(tmp_path: Path) -> None:
    wrong = dataclasses.replace(ROWS[1], device_sha256={"device-0": SHA256[1], "device-1": SHA256[0]})
    assert wrong.unequal == ["device-1"]
    page = report.render(findings([ROWS[0], wrong, ROWS[2]]), tmp_path)
    assert "1 of 6 device copies differ" in page
    assert "device-1 at version 1" in page
    assert "bit for bit" not in page


def test_curves_take_scored_versions_only() -> None:
    curve = Curve.of("cooperllm", 0, ROWS)
    assert (curve.versions, curve.accuracy) == ([0, 2], [0.5, 0.75])


def test_plots_are_pngs_and_differ_in_the_dark() -> None:
    curves = [
        Curve.of("cooperllm", seed, [row(0, 0.5, seed), row(2, 0.6 + seed / 10, seed)]) for seed in (0, 1)
    ]
    light, dark = (plots.draw(curves, findings(ROWS).figures, "accuracy", dark) for dark in (False, True))
    assert light.startswith(b"\x89PNG")
    assert dark.startswith(b"\x89PNG")
    assert light != dark


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (123_456, "123 kB"), (7.25e6, "7.2 MB"), (3e9, "3.0 GB")],
)
def test_bytes_are_written_for_people(count: float, text: str) -> None:
    assert report.bytes_text(count) == text
