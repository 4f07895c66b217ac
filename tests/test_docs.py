"""What the documents say about the code is what the code says."""

from __future__ import annotations

import argparse
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from cloud_service.job import Job, read_job
from cloud_service.job_keys import CHOICES, OPERATIONAL, RANGES
from device_runtime.command import add_arguments
from device_runtime.conditions import CONDITIONS
from device_runtime.limits import Limits

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("cooperllm/data/*.md")])


def rows_of_job_page() -> dict[str, tuple[str, str, str]]:
    lines = (ROOT / "docs" / "job.md").read_text(encoding="utf-8").splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")
    ]
    return {name.strip("`"): (default, allowed, meaning) for name, default, allowed, meaning in cells}


def test_every_key_of_a_job_is_explained_with_its_default() -> None:
    rows = rows_of_job_page()
    assert list(rows) == [field.name for field in fields(Job)]
    for field in fields(Job):
        if field.default is MISSING:
            assert rows[field.name][0] == "required"
            continue
        # None stands for "auto" (guide_weight); Python's True and 1_000 are TOML's true and 1000.
        default = "auto" if field.default is None else field.default
        shown = f'"{default}"' if isinstance(default, str) else str(default).lower()
        assert rows[field.name][0] == f"`{shown}`", field.name


def test_choices_and_what_may_change_are_as_the_job_says() -> None:
    rows = rows_of_job_page()
    for name, allowed in CHOICES.items():
        assert rows[name][1] == ", ".join(f'`"{choice}"`' for choice in allowed)
    assert {name for name, (_, _, meaning) in rows.items() if "*free*" in meaning} == OPERATIONAL


def test_lower_bounds_are_as_the_job_says() -> None:
    rows = rows_of_job_page()
    for name, (smallest, _) in RANGES.items():
        shown = re.match(r"(at least `\w+`|[\d.e-]+)", rows[name][1])
        assert shown is not None, name
        if not shown.group().startswith("at least"):
            assert float(shown.group()) == smallest, name


def test_the_example_job_is_valid_and_the_readme_shows_it() -> None:
    path = ROOT / "examples" / "job.toml"
    job = read_job(path)
    assert Path(job.public).is_file()
    assert Path(job.eval).is_file()
    content = path.read_text(encoding="utf-8")
    assert content.split("\n", 1)[1] == shown_in_readme("examples/job.toml")


def test_the_readme_shows_the_embedding_example() -> None:
    content = (ROOT / "examples" / "embed_device.py").read_text(encoding="utf-8")
    assert content.split("\n\n", 1)[1].strip() == shown_in_readme("examples/embed_device.py").strip()
    assert len(content.splitlines()) <= 20


def test_the_readme_shows_the_embedding_example_in_kotlin() -> None:
    content = (ROOT / "examples" / "NoteSorter.kt").read_text(encoding="utf-8")
    assert content.split("\n\n", 1)[1].strip() == shown_in_readme("examples/NoteSorter.kt").strip()
    assert len(content.splitlines()) <= 20


def shown_in_readme(name: str) -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```", readme, re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_in_the_documents_exist(document: Path) -> None:
    for name in re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", document.read_text(encoding="utf-8")):
        if (ROOT / name.split("/")[0]).is_dir():
            assert (ROOT / name).exists(), f"{document.name} names {name}"


def test_every_adapter_kind_is_explained() -> None:
    from export.adapters.kinds import KINDS

    lines = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8").splitlines()
    assert tuple(line.split("`")[1] for line in lines if line.startswith("| `")) == KINDS


def test_the_page_on_devices_names_every_condition_and_limit() -> None:
    page = (ROOT / "docs" / "device.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)
    limits = [f"--{field.name.replace('_', '-')}" for field in fields(Limits)]
    assert named == [*limits, *CONDITIONS]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert all(limit in parser.format_help() for limit in limits)
