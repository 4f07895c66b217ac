"""A simulation's job: defaults, a file, single options, in this order; and job files that read back."""

import sys
from pathlib import Path

import pytest

from cloud_service.job import read_job
from cooperllm.simulate.material import Sources
from cooperllm.simulate.settings import DEFAULT_JOB, Settings, job_table, to_toml, write_job
from cooperllm.simulate.shards import Sharding
from device_runtime.errors import OptionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def settings(**job: object) -> Settings:
    return Settings(
        Sources(), 4, (0,), 128, Sharding(), "", None, Path("run"), True, False, {**DEFAULT_JOB, **job}
    )


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('rounds = 7\nmomentum = 0.5\nestimator = "isotropic"\n')
    table = job_table(path, {"rounds": 9, "estimator": None})
    assert (table["rounds"], table["momentum"], table["estimator"]) == (9, 0.5, "isotropic")
    assert table["retry_max_ms"] == DEFAULT_JOB["retry_max_ms"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("rounds = ", "is not TOML"),
        ('bundle = "elsewhere"', "bundle follows from the simulation's own options"),
        ("seed = 3", "seed follows from the simulation's own options"),
    ],
)
def test_a_bad_job_file_is_one_line(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(text)
    with pytest.raises(OptionError, match=line):
        job_table(path, {})


def test_job_files_read_back_as_they_were(tmp_path: Path) -> None:
    job = settings().job_for("cooperllm", 3, tmp_path / "b", tmp_path / "public.tsv", tmp_path / "eval.tsv")
    assert read_job(write_job(tmp_path / "deep" / "job.toml", job)) == job
    assert (job.cohort_size, job.min_reports, job.seed) == (4, 4, 3)


def test_devices_alone_use_no_public_fit_and_no_guide(tmp_path: Path) -> None:
    job = settings().job_for("devices_alone", 0, tmp_path, tmp_path / "p", tmp_path / "e")
    assert (job.guide_weight, job.start, job.estimator) == (0.0, "bundle", "isotropic")


def test_unknown_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="unknown key learningrate"):
        settings(learningrate=1).job_for("cooperllm", 0, tmp_path, tmp_path, tmp_path)


def test_awkward_texts_survive_toml() -> None:
    table = {
        "name": 'quote " back\\slash é \n',
        "epsilon": 1e-05,
        "paper_form": True,
        "active_segments": [0, 2],
    }
    assert tomllib.loads(to_toml(table)) == table
