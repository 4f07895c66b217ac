"""report.html: one page, readable offline and in the dark, with everything that a run found out."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from cooperllm.simulate import bits, pipelined, plots, round_plot, stages
from cooperllm.simulate.bits import GuideBits
from cooperllm.simulate.pipelined import Pipelined
from cooperllm.simulate.records import Crossing, Curve, Figure, RoundRow, total_bytes

FILES: dict[str, str] = {
    "metrics.jsonl": "every version: accuracy, loss, traffic by kind, seconds, every hash",
    "timeline.json": "Chrome trace of downlink, compute and uplink of every device, and of the cloud",
    "accuracy.png": "the curve above", "loss.png": "the curve above",
    "round.png": "one round: what cloud, link and device did with each segment, and when",
    "bits.png": "bits a parameter of each segment of the guide, by round",
    "job.toml": "the job as it ran; start it again with cooperllm serve --job",
    "adapter.safetensors": "the final adapter",
    "peft/": "the final adapter for transformers + PEFT",
    "logs/": "what the processes wrote to stderr",
}  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """All that the page shows. `rows` are those of the run with devices, of every seed, in order."""

    title: str
    subtitle: str
    figures: Sequence[Figure]
    curves: Sequence[Curve]
    rows: Sequence[RoundRow]
    busy_s: Mapping[str, float]
    settings: Mapping[str, str]
    platform: Mapping[str, str]
    crossings: Sequence[Crossing] = ()
    typical: tuple[Pipelined | None, int] = (None, 0)  # see pipelined.typical
    guides: Sequence[GuideBits] = ()


def write(folder: Path, findings: Findings) -> Path:
    """Write report.html into the run folder and return its path."""
    path = folder / "report.html"
    path.write_text(render(findings, folder), encoding="utf-8")
    return path


def render(findings: Findings, folder: Path) -> str:
    """Fill the page; all text from outside (labels, file names, settings) is escaped."""
    template = Template(
        resources.files("cooperllm.simulate").joinpath("report_template.html").read_text("utf-8")
    )
    present = {name: text for name, text in FILES.items() if (folder / name).exists()}
    return template.substitute(
        title=escape(findings.title),
        subtitle=escape(findings.subtitle),
        tiles=_tiles(findings),
        figures=_figures(findings.figures),
        figures_note=_figures_note(findings.figures),
        accuracy=_picture(findings, "accuracy"),
        loss=_picture(findings, "loss"),
        stages=_stages(findings.rows),
        pipeline=_pipeline(*findings.typical),
        guides=_guides(findings.guides),
        equality=_equality(findings.rows),
        traffic=_traffic(findings.rows),
        time=_time(findings.busy_s),
        links=_links(findings.crossings),
        settings=_pairs(findings.settings),
        platform=_pairs(findings.platform),
        files="<table>" + "".join(
            f'<tr><td><a href="{name}">{name}</a></td><td>{escape(text)}</td></tr>' for name, text in
            present.items()
        ) + "</table>",
    )  # fmt: skip


def _tiles(findings: Findings) -> str:
    by_key = {figure.key: figure for figure in findings.figures}
    result = by_key["cooperllm"].mean
    tiles = [_tile(f"{result:.1%}", "accuracy with devices", "")]
    for key, text in (
        ("public_alone", "above public data alone"),
        ("shuffled", "lost when their labels are shuffled"),
    ):
        if key in by_key:
            points = 100 * (result - by_key[key].mean)
            tiles.append(_tile(f"{points:+.1f} pts", text, "good" if points > 0 else "bad"))
    down, up = (sum(total_bytes(findings.rows, way).values()) for way in ("downlink_bytes", "uplink_bytes"))
    tiles.append(_tile(f"{bytes_text(up)} up", f"{bytes_text(down)} down, all devices and rounds", ""))
    return "".join(tiles)


def _tile(value: str, text: str, kind: str) -> str:
    return (
        f'<div class="tile"><b class="{kind}">{escape(value)}</b>'
        f'<span class="soft">{escape(text)}</span></div>'
    )


def _figures(figures: Sequence[Figure]) -> str:
    seeds = len(figures[0].accuracies)
    head = (
        "<tr><th></th><th>Accuracy</th>"
        + ("<th class='number'>by seed</th>" if seeds > 1 else "")
        + "<th></th></tr>"
    )
    lines = []
    for figure in figures:
        spread = "" if figure.spread is None else f" ± {100 * figure.spread:.1f}"
        single = "".join(f"{100 * value:.1f} " for value in figure.accuracies)
        cells = [
            f"<td>{escape(figure.name)}</td>",
            f'<td><div class="bar" style="--part: {100 * figure.mean:.1f}%">'
            f"{100 * figure.mean:.1f} %{spread}</div></td>",
            f'<td class="number">{single}</td>' if seeds > 1 else "",
            f'<td class="soft">{escape(figure.explanation)}</td>',
        ]
        lines.append(
            f'<tr class="{"result" if figure.key == "cooperllm" else ""}">' + "".join(cells) + "</tr>"
        )
    return f"<table>{head}{''.join(lines)}</table>"


def _figures_note(figures: Sequence[Figure]) -> str:
    seeds = len(figures[0].accuracies)
    kind = "one seed" if seeds == 1 else f"mean and sample standard deviation of {seeds} seeds"
    text = f"{kind}. Devices and cloud never see the eval file's labels while they learn."
    return escape(text[0].upper() + text[1:])


def _picture(findings: Findings, quantity: str) -> str:
    if not findings.curves:
        return '<p class="soft">No version was scored.</p>'
    light, dark = (plots.draw(findings.curves, findings.figures, quantity, dark) for dark in (False, True))
    return _image(f"{quantity} by round", light, dark)


def _image(text: str, light: bytes, dark: bytes) -> str:
    bright, dim = (base64.b64encode(png).decode() for png in (light, dark))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dim}">'
        f'<img alt="{escape(text)}" src="data:image/png;base64,{bright}"></picture>'
    )


def _pipeline(found: Pipelined | None, count: int) -> str:
    """The section about one round, segment by segment; nothing where no guide was sent."""
    if found is None:
        return ""
    picture = _image("one round by segment", *(round_plot.draw(found, dark) for dark in (False, True)))
    return (
        f"<section><h2>One round, segment by segment</h2>{picture}"
        f'<p class="soft">{escape(pipelined.line(found, count))}.</p></section>'
    )


def _guides(found: Sequence[GuideBits]) -> str:
    """The section about how guides were coded; nothing where none were sent."""
    if not found:
        return ""
    picture = _image("bits by segment", *(round_plot.draw_bits(found, dark) for dark in (False, True)))
    said = "".join(f"<p>{escape(line.strip())}</p>" for line in bits.lines(found))
    return f'<section><h2>Bits of the guides</h2>{picture}<div class="soft">{said}</div></section>'


def _equality(rows: Sequence[RoundRow]) -> str:
    compared = sum(len(row.device_sha256) for row in rows)
    wrong = [(row, name) for row in rows for name in row.unequal]
    last = f"<p>Final adapter: <code>{escape(rows[-1].adapter_sha256)}</code></p>" if rows else ""
    if wrong:
        row, name = wrong[0]
        return (
            f'<p class="bad"><b>{len(wrong)} of {compared} device copies differ from the cloud\'s</b>, first '
            f"{escape(name)} at version {row.version}.</p>{last}"
        )
    return (
        f'<p class="good"><b>All {compared} device copies of {len(rows)} versions have the cloud\'s SHA-256, '
        f"bit for bit.</b></p>{last}"
    )


def _stages(rows: Sequence[RoundRow]) -> str:
    """The section about a chain, of the first seed's run; nothing without one."""
    chain = stages.summary([row for row in rows if row.seed == rows[0].seed])
    if chain is None:
        return ""
    start, *told = map(escape, stages.lines(chain))
    items = "".join(f"<tr><td>{line.strip()}</td></tr>" for line in told)
    return f"<section><h2>Stages of the chain</h2><p>{start}</p><table>{items}</table></section>"


def _traffic(rows: Sequence[RoundRow]) -> str:
    devices = max((len(row.device_sha256) for row in rows), default=0) or 1
    rounds = max(sum(1 for row in rows if row.version > 0), 1)
    lines = [
        "<tr><th></th><th>Kind</th><th class='number'>total</th>"
        "<th class='number'>a device and round</th></tr>"
    ]
    for way, name in (("downlink_bytes", "down"), ("uplink_bytes", "up")):
        for kind, count in sorted(total_bytes(rows, way).items(), key=lambda item: -item[1]):
            lines.append(
                f"<tr><td>{name}</td><td>{escape(kind)}</td><td class='number'>{bytes_text(count)}</td>"
                f"<td class='number'>{bytes_text(count / rounds / devices)}</td></tr>"
            )
    return f"<table>{''.join(lines)}</table>"


def _links(crossings: Sequence[Crossing]) -> str:
    """The section about the devices' links, of the first seed's run; nothing without any."""
    if not crossings:
        return ""
    lines = [
        "<tr><th>Device</th><th>Link</th><th class='number'>down</th><th class='number'>up</th></tr>",
        *(
            f"<tr><td>{escape(item.device)}</td><td>{escape(item.link)}</td>"
            f"<td class='number'>{bytes_text(item.down_bytes)}</td>"
            f"<td class='number'>{bytes_text(item.up_bytes)}</td></tr>"
            for item in crossings
        ),
    ]
    return (
        f'<section><h2>Links</h2><div class="wide"><table>{"".join(lines)}</table></div><p class="soft">All '
        "bytes that passed, with what gRPC and HTTP add; the bundle was on the devices before.</p></section>"
    )


def _time(busy_s: Mapping[str, float]) -> str:
    total = sum(busy_s.values()) or 1.0
    lines = []
    for lane, duration_s in sorted(busy_s.items(), key=lambda item: -item[1]):
        part = 100 * duration_s / total
        lines.append(
            f'<tr><td>{escape(lane)}</td><td><div class="bar" style="--part: {part:.1f}%">{part:.0f} %</div>'
            f'</td><td class="number">{duration_s:.1f} s</td></tr>'
        )
    return f"<table>{''.join(lines)}</table>"


def _pairs(pairs: Mapping[str, str]) -> str:
    rows = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in pairs.items())
    return f"<table>{''.join(rows)}</table>"


def bytes_text(count: float) -> str:
    """Write a number of bytes for people: "1.4 MB" (decimal units)."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
