"""The benchmark of a version's forms, on a small adapter: each leads to the same one, in so many bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.guide_samples import Sample
from benchmarks.version_forms import forms_of, step, table
from cloud_service.compression import encode
from device_runtime.zo.layout import Layout
from tests.cloud_service.small_bundle import write_bundle


def test_guides_with_a_record_are_less_than_a_delta(tmp_path: Path) -> None:
    layout = Layout.build([(name, segment, (60, 50), 20) for segment, name in enumerate("abc")])
    bundle = write_bundle(tmp_path / "bundle", layout)
    values = np.random.default_rng(2).normal(size=(3, 3000)).astype(np.float32)
    sample = Sample("small", tuple(values))
    sizes = forms_of(bundle, sample)
    assert sizes["record"] < sizes["record and one guide"] < sizes["record and both guides"] < sizes["delta"]
    assert sizes["delta"] < sizes["snapshot"]
    assert "9,000 parameters" in table([{"name": "small", "parameters": 9000, "bytes": sizes}])


def test_the_step_moves_every_segment_by_directions_along_both_guides(tmp_path: Path) -> None:
    layout = Layout.build([(name, segment, (20, 50), 20) for segment, name in enumerate("abc")])
    bundle = write_bundle(tmp_path / "bundle", layout)
    sample = Sample("small", tuple(np.random.default_rng(2).normal(size=(3, 1000)).astype(np.float32)))
    guides = [
        {k: encode(own, sample.rms, level) for k, own in enumerate(sample.segments)} for level in (5, 4)
    ]
    before = bundle.adapter.astype(np.float32)
    after, record = step(bundle, sample, before, guides)
    assert all(np.any(after[layout.segment_slice(k)] != before[layout.segment_slice(k)]) for k in range(3))
    assert len({item.guides[0].guide_sha256 for item in record.directions}) == 2
    assert len(record.coefficients) == sum(item.count for item in record.directions)
    layout.check(after)
