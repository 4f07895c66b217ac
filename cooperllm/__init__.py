"""Better language models on people's phones, with data that stay there.

This is the documented Python API, at most fifteen names; the command line is `cooperllm --help`. Importing
the package loads nothing else: each name is fetched from the part it belongs to when it is first used, so
that a device never loads what only the cloud needs.

    Device          a participant that an app embeds: schedule, stop, predict, personalise, forget
    ExampleSource   where a device gets its private examples from
    Limits          what a device may take: memory, time, and under which conditions
    Example         one private example: a text and the name of its class
    read_examples   reads a CSV, TSV or JSONL file of examples
    Bundle          an exported model: program, manifest, adapter, tokenizer
    Layout          which tensor of which segment sits where in the adapter
    Job             what is to be learned, by which estimator, for how many rounds
    read_job        reads a job file
    CooperLLMError  base of all errors raised on purpose
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloud_service.job import Job, read_job
    from device_runtime.bundle import Bundle
    from device_runtime.device import Device, ExampleSource
    from device_runtime.errors import CooperLLMError
    from device_runtime.examples import Example, read_examples
    from device_runtime.limits import Limits
    from device_runtime.zo.layout import Layout

__version__ = "0.1.0"

_HOMES = {
    "Bundle": "device_runtime.bundle",
    "CooperLLMError": "device_runtime.errors",
    "Device": "device_runtime.device",
    "Example": "device_runtime.examples",
    "ExampleSource": "device_runtime.device",
    "Job": "cloud_service.job",
    "Layout": "device_runtime.zo.layout",
    "Limits": "device_runtime.limits",
    "read_examples": "device_runtime.examples",
    "read_job": "cloud_service.job",
}

__all__ = [
    "Bundle",
    "CooperLLMError",
    "Device",
    "Example",
    "ExampleSource",
    "Job",
    "Layout",
    "Limits",
    "__version__",
    "read_examples",
    "read_job",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'cooperllm' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
