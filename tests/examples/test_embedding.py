"""The examples that embed the runtime without a cloud, run as their readers would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from device_runtime.core import Batch, Core, Direction
from tests.device_runtime.toy_bundle import CLASSES, GOLDEN, open_toy_bundle, toy_examples

ROOT = Path(__file__).parents[2]


def test_the_python_example_personalises(tmp_path: Path) -> None:
    open_toy_bundle(tmp_path / "bundle")
    lines = [f"{e.text}\t{e.label}\n" for e in toy_examples(100)]
    (tmp_path / "mine.tsv").write_text("text\tlabel\n" + "".join(lines))
    command = [sys.executable, str(ROOT / "examples" / "embed_runtime.py"), "bundle", "mine.tsv"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    shared, private, label = done.stdout.splitlines()
    assert float(private.removeprefix("private adapter: loss ")) < float(shared.split()[-1])
    assert label in CLASSES


def build_of(target: str) -> Path:
    """A target of CMakeLists.txt, in the folder in which this checkout's core was built."""
    cmake = Path(sys.executable).with_name("cmake")
    tool = str(cmake) if cmake.exists() else shutil.which("cmake")
    home = f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\n"
    caches = [path for path in ROOT.glob("build/*/CMakeCache.txt") if home in path.read_text()]
    if tool is None or not caches or shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no compiler, no CMake or no core built in this checkout: the C++ example was not run")
    folder = max(caches, key=lambda path: path.stat().st_mtime).parent
    for command in ([tool, str(folder)], [tool, "--build", str(folder), "--target", target]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / target


@pytest.mark.ci
def test_the_cpp_example_steps_as_python_does(tmp_path: Path) -> None:
    example = build_of("embed_core")
    bundle = open_toy_bundle(tmp_path / "bundle")
    chain, text, layout = bundle.manifest.chain, bundle.manifest.text, bundle.layout
    numbers = [chain.segments, chain.batch_examples, text.max_tokens, chain.hidden_size]
    for t in layout.tensors:
        numbers += [t.segment, t.offset, t.count, t.exponent, len(t.shape), *t.shape]
    program = str(GOLDEN / "toy.pte")
    shape = " ".join(map(str, numbers))
    done = subprocess.run([str(example), program], input=shape, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

    tensors = [(t.segment, t.offset, t.count, t.exponent, list(t.shape)) for t in layout.tensors]
    core = Core(program, tensors, chain.segments, chain.batch_examples, text.max_tokens, chain.hidden_size)
    rows, tokens = chain.batch_examples, text.max_tokens
    ids = (np.arange(rows * tokens) % 7).reshape(rows, tokens)
    batch = Batch(ids, np.ones_like(ids), np.ones(rows, np.int64), np.ones(rows))
    segments, expected = list(range(chain.segments + 1)), []
    for step in range(5):
        directions = [Direction(8 * step + j) for j in range(8)]
        rho = core.measure([batch], directions, 0.01, segments).rho
        core.update(0.01, step, segments, directions, [-0.02 * float(value) / 8 for value in rho], [])
        loss, count, _ = core.evaluate([batch])
        expected.append(f"step {step}: loss {loss / count:.9f}")
    assert done.stdout.splitlines() == expected
    assert expected[-1].split()[-1] < expected[0].split()[-1]

    failed = subprocess.run([str(example), "none"], input=shape, capture_output=True, text=True, check=False)
    assert (failed.returncode, "cannot map 'none'" in failed.stderr) == (1, True)
