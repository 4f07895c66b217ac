"""docs/support.md says what was tried, of the combinations that the code declares now."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from typing import Any

import pytest

from benchmarks.support import Combination, declared, tried
from benchmarks.support_page import RESULTS, outdated, tables
from benchmarks.tiny_models import MODELS
from device_runtime.bundle import PRECISIONS
from export.adapters.kinds import KINDS as ADAPTERS
from export.families import FAMILIES, is_causal
from export.tasks.entry import KINDS as TASKS


def test_the_page_is_of_what_is_declared() -> None:
    """Each family, task, adapter kind and precision was tried; a pair that was not is shown as such."""
    problems = outdated([asdict(combination) for combination in declared()])
    assert [problem for problem in problems if not problem.startswith("never tried")] == []
    rows = json.loads(RESULTS.read_text("utf-8"))["rows"]
    for part in ("model", "task", "adapter", "precision"):
        assert {row[part] for row in rows} == {getattr(combination, part) for combination in declared()}


def test_every_family_task_adapter_kind_and_precision_is_declared() -> None:
    combinations = declared()
    refused = {"gemma3"}  # of images and text; its text model, gemma3_text, is there
    assert {MODELS[c.model][0] for c in combinations} == set(FAMILIES) - refused
    assert {(c.model, c.task) for c in combinations} == {
        (model, task)
        for model, (model_type, _, _) in MODELS.items()
        for task in TASKS
        if task != "causal_lm" or is_causal(model_type)
    }
    assert {c.adapter for c in combinations} == set(ADAPTERS)
    assert {c.precision for c in combinations} == set(PRECISIONS)


def test_a_combination_that_was_never_tried_is_told() -> None:
    new = asdict(Combination("bert", precision="int3"))
    before = outdated([asdict(combination) for combination in declared()])
    problems = outdated([*(asdict(combination) for combination in declared()), new])
    assert len(problems) == len(before) + 1
    assert any(
        problem.startswith("never tried: bert/sequence_classification/lora/int3") for problem in problems
    )
    gone = outdated([asdict(combination) for combination in declared() if combination.model != "bert"])
    assert any(problem.startswith("no longer declared: bert/") for problem in gone)


@pytest.fixture
def results() -> dict[str, Any]:
    return copy.deepcopy(json.loads(RESULTS.read_text("utf-8")))


def test_what_does_not_work_is_noted_in_the_tables(results: dict[str, Any]) -> None:
    row = results["rows"][0]
    row["problem"] = "module 'X' stopped it"
    text = tables(results)
    assert "no (1)" in text
    assert f"{row['model']} / {row['task']} / lora / fp32: module 'X' stopped it" in text


@pytest.mark.ci
def test_what_is_refused_is_a_row_with_its_reason(tmp_path: Any) -> None:
    row = tried(Combination("bert", adapter="no_such_kind"), tmp_path)
    assert "no_such_kind" in row["problem"]
    assert "\n" not in row["problem"]
