"""What this package refuses. Callers turn these into the errors of their own side."""

from __future__ import annotations


class ZoError(ValueError):
    """Base of the errors of this package. The message is one line that says what to do."""


class LayoutError(ZoError):
    """A layout is inconsistent, or an adapter is not of it. Use the bundle that the adapter was made for."""


class NotFinite(ZoError):
    """A direction or an update contains NaN or infinity. Drop the guide, scale or record that it came
    from."""


class OutOfRange(ZoError):
    """A value or perturbation is 2^23 grid steps or more. Use a smaller epsilon, scale, guide or exponent."""


class BelowGrid(ZoError):
    """Rounding to the grid changes a direction by over 2 %. Use the epsilon, or the higher exponents, that it
    names.

    Attributes: `epsilon` would do with the exponents as they are, and so would exponents higher by
    `exponent_increase` with epsilon as it is. Both are None when no value would do without leaving the range.
    """

    def __init__(self, message: str, epsilon: float | None, exponent_increase: int | None) -> None:
        super().__init__(message)
        self.epsilon = epsilon
        self.exponent_increase = exponent_increase


class VersionError(ZoError):
    """A delta is damaged or made for another adapter. Drop it and fetch a snapshot."""


class CodeError(ZoError):
    """A coded stream is damaged, truncated or too long. Drop it and fetch it again."""
