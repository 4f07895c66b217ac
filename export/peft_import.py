"""Reads an adapter to start from: a PEFT LoRA, or the tensors of an adapter of ours.

A folder with adapter_config.json is a PEFT adapter: its configuration rules, and what the kind "lora" does
not compute is refused. Without one, the file's names must be those of the layout.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from device_runtime.errors import BundleError
from export.adapters import ROOT
from export.families import PREFIXES

Float32 = npt.NDArray[np.float32]

CONFIG, FILES = "adapter_config.json", ("adapter_model.safetensors", "adapter.safetensors")
# Fields of PEFT's LoraConfig that do not change what a saved adapter computes, or that are read below.
READ = {"peft_type", "r", "lora_alpha", "target_modules", "bias", "init_lora_weights"}
HARMLESS = {
    "auto_mapping", "eva_config", "base_model_name_or_path", "inference_mode", "loftq_config", "lora_dropout",
    "megatron_core", "modules_to_save", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "task_type", "layers_to_transform", "layers_pattern", "exclude_modules", "ensure_weight_tying",
}  # fmt: skip
# Starts that leave the base model's weights as they are; others (PiSSA, OLoRA, …) change them.
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class LoraFields:
    """A PEFT LoRA's configuration.

    Attributes:
        r, lora_alpha: PEFT's.
        names: target_modules as PEFT lists them, or the paths of the modules that the file has factors of.
    """

    r: int
    lora_alpha: float
    names: tuple[str, ...]

    def targets(self, kind: str) -> tuple[str, ...]:
        """The target modules of an adapter kind that starts from it.

        Raises:
            BundleError: it is another kind.
        """
        if kind not in ("lora", "lora_fa"):
            raise BundleError(
                f"--adapter-from: a LoRA is no start for the adapter kind {kind}; use --adapter lora"
            )
        return self.names


@dataclass(frozen=True)
class Imported:
    """An adapter to start from.

    Attributes:
        path: of its tensors, for messages.
        tensors: by the file's names, float32.
        lora: its configuration, where it is a PEFT adapter.
    """

    path: Path
    tensors: dict[str, Float32]
    lora: LoraFields | None

    def fitted(self, shapes: dict[str, tuple[int, ...]], fixed: dict[str, Float32]) -> dict[str, Float32]:
        """Its values under the names of a network's adapter tensors.

        A PEFT adapter without a head leaves the task's at its own start; all other tensors must be there.

        Args:
            shapes: of the adapter tensors, by name.
            fixed: frozen factors (LoRA-FA's A) that the adapter must have exactly.

        Raises:
            BundleError: a tensor is missing, has no place, another shape, or values that are not finite.
        """
        plain = {_plain(name): values for name, values in self.tensors.items()}
        wanted = {_plain(name): name for name in shapes}
        for name, values in fixed.items():
            if self.lora is None and _plain(name) not in plain:
                continue
            if not np.array_equal(plain.pop(_plain(name), np.zeros(0)), values):
                raise BundleError(
                    f"{self.path}: {name} is not this --seed's frozen factor; import it with --adapter lora"
                )
        found = {}
        for name, values in plain.items():
            if name not in wanted:
                raise BundleError(
                    f"{self.path}: {name} has no place in this program; remove it from the adapter"
                )
            if values.shape != shapes[wanted[name]]:
                raise BundleError(
                    f"{self.path}: {name} has the shape {list(values.shape)}, "
                    f"this program takes {list(shapes[wanted[name]])}"
                )
            if not np.isfinite(values).all():
                raise BundleError(f"{self.path}: {name} contains NaN or infinity; use another adapter")
            found[wanted[name]] = values
        for name, own in wanted.items():
            if name not in plain and (self.lora is None or ".lora_" in name):
                raise BundleError(f"{self.path}: it has no {name} ({own}), which this program needs")
        return found


def read_adapter(path: str | Path) -> Imported:
    """The adapter in a folder, or in a safetensors file.

    Raises:
        BundleError: there is none, or a PEFT adapter that is no plain LoRA; the message says what it is.
    """
    path = Path(path).expanduser()
    file = path
    if path.is_dir():
        file = next((path / name for name in FILES if (path / name).is_file()), path / FILES[0])
    if not file.is_file():
        raise BundleError(
            f"{path}: no adapter there; give a folder with {FILES[0]} and {CONFIG}, or a safetensors file"
        )
    tensors = _tensors(file)
    if not (path / CONFIG).is_file():
        return Imported(file, tensors, None)
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        return Imported(file, tensors, _lora(path / CONFIG, config, tensors))
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise BundleError(f"{path / CONFIG}: not a PEFT configuration; save the adapter again") from error


def _tensors(file: Path) -> dict[str, Float32]:
    """Every tensor of a safetensors file as float32; through torch, because NumPy has no bfloat16."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name).float().numpy() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{file}: not a readable safetensors file; save the adapter again") from error


def _lora(where: Path, config: dict[str, Any], tensors: dict[str, Float32]) -> LoraFields:
    """The configuration's fields, checked."""
    if config.get("peft_type") != "LORA":
        raise BundleError(f"{where}: peft_type {config.get('peft_type')!r} cannot be imported; only 'LORA'")
    unknown = [name for name, value in config.items() if value and name not in READ | HARMLESS]
    if unknown:
        raise BundleError(f"{where}: {unknown[0]} is not supported; import a plain LoRA")
    if config.get("bias", "none") != "none":
        raise BundleError(
            f"{where}: bias {config['bias']!r} is not supported; import a LoRA with bias 'none'"
        )
    start = config.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        raise BundleError(
            f"{where}: init_lora_weights {start!r} changes the base model; "
            "convert the adapter with PEFT's path_initial_model_for_weight_conversion first"
        )
    r, alpha = int(config["r"]), float(config["lora_alpha"])
    if r < 1 or not math.isfinite(alpha):
        raise BundleError(f"{where}: r {r} and lora_alpha {alpha:g} make no LoRA")
    names = config["target_modules"]
    # An expression, or some layers only: the modules are those that the file has factors of.
    if isinstance(names, str) or config.get("layers_to_transform") or config.get("exclude_modules"):
        names = {_plain(name).rsplit(".lora_", 1)[0] for name in tensors if ".lora_" in name}
    return LoraFields(r, alpha, tuple(sorted(names)))


def _plain(name: str) -> str:
    """A tensor's name without what PEFT and a task's class put before the base model's, head names made one.

    An encoder inside a classifier's class has "bert." before its names, alone it has not; a decoder's head is
    called "score".
    """
    name = name.removeprefix(ROOT)
    prefix = next((prefix for prefix in PREFIXES if prefix and name.startswith(prefix)), "")
    name = name.removeprefix(prefix)
    return f"classifier.{name.removeprefix('score.')}" if name.startswith("score.") else name
