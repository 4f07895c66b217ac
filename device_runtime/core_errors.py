"""The core's statuses as errors of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import (
    BadArtifact,
    CooperLLMError,
    DirectionBelowGrid,
    DirectionOutOfRange,
    LossNotFinite,
    ProgramError,
    Stopped,
    UnsupportedTask,
)

_MEANINGS: dict[str, type[CooperLLMError]] = {
    "OUT_OF_RANGE": DirectionOutOfRange,
    "BELOW_GRID": DirectionBelowGrid,
    "NOT_FINITE": BadArtifact,
    "OFF_GRID": BadArtifact,
    "BAD_ARGUMENT": UnsupportedTask,
    "LOSS_NOT_FINITE": LossNotFinite,
    "STOPPED": Stopped,
}


@contextmanager
def meaningful(core_error: type[Exception]) -> Iterator[None]:
    """Turns `core_error`, which the core raises with a status, into the error tree; ProgramError for a status
    that has no meaning of its own.
    """
    try:
        yield
    except core_error as error:
        raise _MEANINGS.get(getattr(error, "status", ""), ProgramError)(str(error)) from error
