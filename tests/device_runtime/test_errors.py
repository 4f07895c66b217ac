"""The error tree: the drawing at the top of errors.py is the truth about the classes below it."""

from __future__ import annotations

import inspect
import re

import pytest

from device_runtime import errors
from protos import federation_pb2 as pb

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.CooperLLMError)]


def drawn_tree() -> dict[str, str]:
    """Maps each class in the drawing to its parent, by indentation."""
    parents: dict[str, str] = {}
    path: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ((?:\|   |    )*)(\+-- )?([A-Z]\w+)(?: {2,}|$)", line)
        if not found:
            continue
        depth = len(found[1]) // 4 + (1 if found[2] else 0)
        path[depth] = found[3]
        if depth:
            parents[found[3]] = path[depth - 1]
    return parents


def test_the_drawing_is_the_tree() -> None:
    real = {c.__name__: c.__bases__[0].__name__ for c in CLASSES if c is not errors.CooperLLMError}
    assert drawn_tree() == real


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_each_says_what_to_do_in_one_line_with_an_exit_code(error: type[errors.CooperLLMError]) -> None:
    assert len((error.__doc__ or "").splitlines()[0]) > 40
    shown = str(error("first line\nsecond\tline"))
    assert shown == "first line second line"
    assert error.exit_code == (2 if issubclass(error, errors.InputError) else 1)


def test_an_examples_error_names_file_and_line() -> None:
    assert str(errors.ExamplesError("unknown label", "mail.tsv", 17)) == "mail.tsv, line 17: unknown label"
    assert str(errors.ExamplesError("no examples", "mail.tsv")) == "mail.tsv: no examples"


def test_refusals_carry_statuses_of_the_protocol() -> None:
    refusals = [c for c in CLASSES if c.__base__ is errors.TaskRefused]
    names = {c.status for c in refusals}
    assert len(names) == len(refusals)
    known = {n.removeprefix("REPORT_STATUS_") for n in pb.ReportStatus.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED",
        "OK",
    }
    assert names == known
