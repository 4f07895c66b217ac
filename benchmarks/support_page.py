"""docs/support.md from docs/support.json: the tables of what works, between two markers of the page."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
RESULTS, PAGE = DOCS / "support.json", DOCS / "support.md"
BEGIN, END = "<!-- tables: python -m benchmarks.support -->", "<!-- end of tables -->"
PARTS = ("model", "task", "adapter", "precision")

Row = dict[str, Any]


def write_page(rows: list[Row]) -> None:
    """Writes the results, with today's date, and the page's tables."""
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    results = {"date": today, "rows": rows}
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(_page(results), "utf-8")


def outdated(declared: list[Row]) -> list[str]:
    """What is wrong with the two files, a line each, given the combinations that are declared now."""
    if not RESULTS.exists() or not PAGE.exists():
        return ["docs/support.md or docs/support.json is missing: python -m benchmarks.support"]
    results = json.loads(RESULTS.read_text("utf-8"))
    there = {_key(row) for row in results["rows"]}
    wanted = {_key(row) for row in declared}
    problems = [f"never tried: {'/'.join(key)}" for key in sorted(wanted - there)]
    problems += [f"no longer declared: {'/'.join(key)}" for key in sorted(there - wanted)]
    if PAGE.read_text("utf-8") != _page(results):
        problems.append("docs/support.md is not what docs/support.json gives")
    return [f"{problem}; run python -m benchmarks.support" for problem in problems]


def _page(results: dict[str, Any]) -> str:
    """The page with its tables replaced."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{tables(results)}\n{END}{after}"


def tables(results: dict[str, Any]) -> str:
    """Families × tasks, then adapter kinds and precisions, then what went wrong, in Markdown."""
    rows: list[Row] = results["rows"]
    made_by = sorted({row["made_by"].partition(", ")[2] for row in rows if "made_by" in row})
    plain = [row for row in rows if (row["adapter"], row["precision"]) == ("lora", "fp32")]
    task = rows[0]["task"]
    kinds = [row for row in rows if row["task"] == task and row["precision"] == "fp32"]
    precisions = [row for row in rows if row["task"] == task and row["adapter"] == "lora"]
    special = [row for row in rows if (row["adapter"], row["precision"]) != ("lora", "fp32")]
    two = list(dict.fromkeys(row["model"] for row in special))
    notes: list[str] = []
    lines = [
        f"Tried on {results['date']} with {'; '.join(made_by)}.",
        "",
        "**Families and tasks** (LoRA, fp32)",
        "",
    ]
    lines += _table(plain, "model", "task", notes, lambda row: f"`{row['model']}` (`{row['family']}`)")
    lines += ["", f"**Adapter kinds** (`{task}`, fp32)", ""]
    lines += _table([row for row in kinds if row["model"] in two], "adapter", "model", notes)
    lines += ["", f"**Precisions** of the frozen weights (`{task}`, LoRA)", ""]
    lines += _table([row for row in precisions if row["model"] in two], "precision", "model", notes)
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _table(rows: list[Row], down: str, across: str, notes: list[str], name: Any = None) -> list[str]:
    """One table; a cell that does not work points to a note."""
    columns = list(dict.fromkeys(row[across] for row in rows))
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        title = name(row) if name else f"`{row[down]}`"
        if row["problem"]:
            notes.append(f"{len(notes) + 1}. {' / '.join(row[part] for part in PARTS)}: {row['problem']}")
        cells.setdefault(title, {})[row[across]] = f"no ({len(notes)})" if row["problem"] else "yes"
    head = [f"| {down} | " + " | ".join(f"`{column}`" for column in columns) + " |"]
    return [
        *head,
        "|" + " --- |" * (len(columns) + 1),
        *(
            f"| {title} | " + " | ".join(row.get(c, "—") for c in columns) + " |"
            for title, row in cells.items()
        ),
    ]


def _key(row: Row) -> tuple[str, ...]:
    return tuple(str(row[part]) for part in PARTS)
