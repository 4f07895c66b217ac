"""Reading a job: every mistake is one line that names the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloud_service.job import Job, from_table, read_job
from device_runtime.errors import OptionError
from device_runtime.zo.layout import Layout
from protos import bundle_pb2

SMALLEST = {"name": "intents", "bundle": "b", "public": "p.tsv"}


def test_reads_every_kind_of_value(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text(
        'name = "intents"\nbundle = "bundle"\npublic = "public.tsv"\nepsilon = 1\nguide_weight = 0.5\n'
        'active_segments = [0, 2]\npaper_form = true\nestimator = "isotropic"\n'
    )
    job = read_job(file)
    assert job.bundle == str(tmp_path / "bundle")
    assert job.public == str(tmp_path / "public.tsv")
    assert job.epsilon == 1.0
    assert job.guide_weight == 0.5
    assert job.active_segments == (0, 2)
    assert job.paper_form


def test_json_object_reads_back_as_the_same_job() -> None:
    for table in (SMALLEST, SMALLEST | {"guide_weight": 0.25, "active_segments": [1]}):
        job = from_table(table)
        assert from_table(job.to_json_object()) == job


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"round": 3}, "unknown key round"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": True}, "a whole number"),
        ({"rounds": "3"}, "a whole number"),
        ({"rounds": 3.5}, "a whole number"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"epsilon": 0}, "epsilon"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"estimator": "magic"}, "isotropic, zgr"),
        ({"version_form": "zip"}, "auto, record"),
        ({"guide_weight": "always"}, "a number"),
        ({"guide_weight": 1.5}, "guide_weight"),
        ({"active_segments": []}, "active_segments"),
        ({"active_segments": [2, 1]}, "ascending"),
        ({"active_segments": "tail"}, "active_segments"),
        ({"batch_examples": 7}, "batch_examples"),
        ({"public": ""}, "public"),
        ({"name": ""}, "name"),
        ({"bundle": ""}, "bundle"),
        ({"min_reports": 9}, "min_reports"),
        ({"min_clients": 3}, "min_clients"),
        ({"retry_min_ms": 9_000}, "retry_max_ms"),
    ],
)
def test_refuses(change: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        from_table(SMALLEST | change)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_says_which_key_is_missing() -> None:
    with pytest.raises(OptionError, match="bundle is missing"):
        from_table({"name": "intents"})


@pytest.mark.parametrize("text", ["name = ", "\x00", "[[["])
def test_refuses_what_is_not_toml(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.toml").write_text(text)
    with pytest.raises(OptionError, match="is not TOML"):
        read_job(tmp_path / "job.toml")


def test_refuses_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot read"):
        read_job(tmp_path / "absent.toml")


def test_active_segments_must_own_parameters() -> None:
    frozen_head = LayoutOnly(Layout.build([("a", 0, (2, 3), 20), ("b", 1, (4,), 20)]), 2)
    assert from_table(SMALLEST | {"active_segments": "all"}).segments_of(frozen_head) == (0, 1)  # type: ignore
    assert from_table(SMALLEST | {"active_segments": [1, 2]}).segments_of(frozen_head) == (1,)  # type: ignore
    with pytest.raises(OptionError, match='only in 0, 1; use "all"'):
        from_table(SMALLEST | {"active_segments": "head"}).segments_of(frozen_head)  # type: ignore


def test_exact_slopes_need_the_programs_method() -> None:
    job = from_table(SMALLEST | {"exact_head": True})
    bundle = LayoutOnly(Layout.build([("a", 0, (2, 3), 20), ("b", 2, (4,), 20)]), 2)
    with pytest.raises(OptionError, match="head_gradient"):
        job.segments_of(bundle)  # type: ignore
    bundle.manifest.chain.methods.add(name="head_gradient")
    assert job.segments_of(bundle) == (2,)  # type: ignore
    for other in ({"active_segments": "all"}, {"estimator": "fedspzo"}):
        with pytest.raises(OptionError, match="exact_head"):
            from_table(SMALLEST | {"exact_head": True} | other)


class LayoutOnly:
    """What `segments_of` reads of a bundle."""

    def __init__(self, layout: Layout, segments: int) -> None:
        self.layout = layout
        self.manifest = bundle_pb2.Manifest(chain=bundle_pb2.Chain(segments=segments))


def test_segments_of_a_bundle() -> None:
    def job(active: Any) -> Job:
        return from_table(SMALLEST | {"active_segments": active})

    assert job("all").segments(3) == (0, 1, 2)
    assert job("head").segments(3) == (2,)
    assert job([0, 2]).segments(3) == (0, 2)
    with pytest.raises(OptionError, match="segments 0 to 2"):
        job([3]).segments(3)
