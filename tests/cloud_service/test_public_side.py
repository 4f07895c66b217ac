"""The public side over a real torch model: gradient, guides, scale, fit, and the adapter as PEFT reads it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloud_service.directions import Float32
from cloud_service.job import Job, from_table
from cloud_service.plan import RoundState
from device_runtime.bundle import Bundle
from device_runtime.zo.grid import round_to_grid

pytestmark = pytest.mark.ci  # torch, transformers and an export: about a minute

WORDS = {"red": "apple cherry blood rose", "green": "grass leaf frog lime", "blue": "sky sea ice whale"}


@pytest.fixture
def source(tiny_source: Path) -> Path:
    return tiny_source


@pytest.fixture
def bundle(tiny_bundle: Bundle) -> Bundle:
    return tiny_bundle


def job_over(bundle: Bundle, source: Path, folder: Path, segments: object = "head") -> Job:
    lines = [
        f"the {word} number {n}\t{label}"
        for label, words in WORDS.items()
        for n, word in enumerate(words.split())
    ]
    (folder / "public.tsv").write_text("text\tlabel\n" + "\n".join(lines) + "\n", encoding="utf-8")
    table = {
        "name": "tiny",
        "model": str(source),
        "bundle": str(bundle.folder),
        "public": str(folder / "public.tsv"),
        "eval": str(folder / "public.tsv"),
        "active_segments": segments,
    }
    return from_table(table)


def random_adapter(bundle: Bundle) -> Float32:
    rng = np.random.default_rng(9)
    return np.concatenate(
        [round_to_grid(0.3 * rng.normal(size=t.count), t.exponent) for t in bundle.layout.tensors]
    )


@pytest.mark.parametrize("segments", ["head", [1, 2], "all"])
def test_the_gradient_is_that_of_the_loss(
    bundle: Bundle, source: Path, tmp_path: Path, segments: object
) -> None:
    from cloud_service.public_data import PublicData, public_side

    side = public_side(job_over(bundle, source, tmp_path, segments), bundle)
    assert isinstance(side, PublicData)
    objective = side._objective
    adapter = bundle.adapter.copy()
    spans = [bundle.layout.segment_slice(k) for k in objective.segments]
    for span in spans:
        adapter[span] = random_adapter(bundle)[span]
    _, gradient = objective.loss_and_gradient(adapter)
    inactive = np.ones(adapter.size, bool)
    for span in spans:
        inactive[span] = False
    assert not gradient[inactive].any()
    rng = np.random.default_rng(1)
    z = np.where(inactive, 0.0, rng.normal(size=adapter.size))
    h = 1e-3
    ahead, _ = objective.loss_and_gradient((adapter + h * z).astype(np.float32))
    behind, _ = objective.loss_and_gradient((adapter - h * z).astype(np.float32))
    assert (ahead - behind) / (2 * h) == pytest.approx(float(z @ gradient), rel=0.02, abs=2e-3)


def test_the_scale_is_positive_and_for_the_head_the_features_root_mean_square(
    bundle: Bundle, source: Path, tmp_path: Path
) -> None:
    import torch

    from cloud_service.public_data import PublicData, public_side

    side = public_side(job_over(bundle, source, tmp_path), bundle)
    assert isinstance(side, PublicData)
    scale = side.scale(bundle.adapter)
    assert scale is not None
    assert np.all(np.isfinite(scale))
    assert np.all(scale > 0)
    head = {
        t.name.rsplit(".", 1)[1]: scale[t.span].reshape(t.shape) for t in bundle.layout.segment_tensors(2)
    }
    pooled = torch.cat([batch.hidden for batch in side._objective._batches]).numpy()[:, 0].astype(np.float64)
    squares = np.mean(pooled**2, axis=0)
    expected = 1 / np.sqrt(squares + 0.01 * squares.mean())
    np.testing.assert_allclose(head["weight"], np.tile(expected, (3, 1)), rtol=1e-4)
    np.testing.assert_allclose(head["bias"], 1.0, rtol=0.01)
    everywhere = public_side(job_over(bundle, source, tmp_path, "all"), bundle).scale(bundle.adapter)
    assert everywhere is not None
    np.testing.assert_array_equal(
        everywhere[bundle.layout.segment_slice(2)], scale[bundle.layout.segment_slice(2)]
    )
    for tensor in (t for t in bundle.layout.tensors if t.segment < 2):
        values = everywhere[tensor.span]
        assert np.all((values > 0.01) & (values <= 10.0)), tensor.name
        # B is zero, so A has no gradient yet: nothing is known of it.
        assert np.all(values == 1.0) == tensor.name.endswith("lora_A.weight")


def test_the_fit_learns_and_guides_point_along_the_scaled_gradient(
    bundle: Bundle, source: Path, tmp_path: Path
) -> None:
    from cloud_service.public_data import PublicData, public_side

    side = public_side(job_over(bundle, source, tmp_path), bundle)
    assert isinstance(side, PublicData)
    before, after = side.evaluate(bundle.adapter), side.evaluate(side.start(bundle.adapter))
    assert before is not None
    assert after is not None
    assert after[0] < before[0]
    assert after[1] >= 10
    scale = side.scale(bundle.adapter)
    assert scale is not None
    _, gradient = side._objective.loss_and_gradient(bundle.adapter)
    for segment, values in side.sampled(RoundState(0, bundle.adapter)):
        span = bundle.layout.segment_slice(segment)
        expected = gradient[span] * scale[span].astype(np.float64) ** 2
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-9)


def test_a_chain_starts_from_a_fit_of_everything_after_one_of_the_head(
    bundle: Bundle, source: Path, tmp_path: Path
) -> None:
    from cloud_service.public_data import public_side

    head = public_side(job_over(bundle, source, tmp_path), bundle)
    chain = public_side(
        replace(job_over(bundle, source, tmp_path, "all"), estimator="chainfed", chain_global_weight=0.0),
        bundle,
    )
    of_head, of_all = head.start(bundle.adapter), chain.start(bundle.adapter)
    losses = [side.evaluate(adapter) for side, adapter in ((head, of_head), (chain, of_all))]
    assert losses[0] is not None
    assert losses[1] is not None
    assert losses[1][0] < losses[0][0]
    for segment in range(3):
        span = bundle.layout.segment_slice(segment)
        assert not np.array_equal(of_all[span], bundle.adapter[span])


_DIGEST = """
import hashlib, sys
from pathlib import Path
from cloud_service.job import read_job
from cloud_service.plan import RoundState
from cloud_service.public_data import public_side
from device_runtime.bundle import Bundle
job = read_job(Path(sys.argv[1]))
bundle = Bundle.open(job.bundle)
side = public_side(job, bundle)
start = side.start(bundle.adapter)
guide = b"".join(values.tobytes() for _, values in side.sampled(RoundState(0, start)))
print(hashlib.sha256(start.tobytes() + side.scale(start).tobytes() + guide).hexdigest())
"""


def test_every_process_gets_the_same_bits(bundle: Bundle, source: Path, tmp_path: Path) -> None:
    job = job_over(bundle, source, tmp_path)
    lines = [
        f"{key} = {value!r}".replace("'", '"')
        for key, value in {
            "name": job.name,
            "bundle": job.bundle,
            "public": job.public,
            "model": job.model,
            "guide_weight": "auto",
        }.items()
    ]
    (tmp_path / "job.toml").write_text("\n".join(lines), encoding="utf-8")
    root = Path(__file__).parents[2]
    digests = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST, str(tmp_path / "job.toml")],
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()[-1]
        for _ in range(2)
    }
    assert len(digests) == 1


def test_the_exported_adapter_scores_the_same_with_transformers_and_peft(
    source: Path, bundle: Bundle, tmp_path: Path
) -> None:
    from types import SimpleNamespace

    from cloud_service.guides import open_model
    from cloud_service.peft_export import export_peft, snippet
    from device_runtime.text import Tokenizer

    adapter = random_adapter(bundle)
    export_peft(bundle, adapter, tmp_path / "peft")
    assert len(snippet(bundle).strip().splitlines()) <= 15
    texts = ["red apple", "a long text about the sea " * 20, "grass", "the whale and the frog, both of them"]
    scope: dict[str, object] = {}
    exec((tmp_path / "peft" / "score.py").read_text(encoding="utf-8"), scope)
    scored = scope["logits"](texts, str(source), str(tmp_path / "peft")).numpy()  # type: ignore[operator]
    model = open_model(bundle, str(source))
    model.load_adapter(adapter)
    tokens = Tokenizer(bundle.tokenizer_path, bundle.manifest.text).encode(texts)
    batch = SimpleNamespace(
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        labels=np.zeros(4, np.int64),
        weights=np.ones(4),
    )
    np.testing.assert_allclose(scored, model.logits(batch).detach().numpy(), atol=1e-4, rtol=1e-4)
    # The test could fail: without the adapter the logits are others.
    model.load_adapter(np.zeros_like(adapter))
    assert np.abs(scored - model.logits(batch).detach().numpy()).max() > 0.1
