"""What can go wrong, one exception a cause; and warnings, which name the line that led to them."""

from __future__ import annotations

import sys
import warnings


class InvalidProblemError(ValueError):
    """An argument of a problem is not what it must be; the message names it, where, and what was expected."""

    # of entries that are no scores: their kind, how many there are, and token and feature of the first
    entries: tuple[str, int, tuple[int, int]] | None = None


class InfeasibleError(ValueError):
    """No allocation satisfies every floor and cap; the message names a set of them that cannot hold together."""


class UnsupportedProblemError(NotImplementedError):
    """The chosen solver does not solve this combination of constraints; the message says which one does."""


class NotCertifiedError(RuntimeError):
    """A solver ended without a certified optimum; the message gives the best gap and what to do."""


def warn_caller(message: str) -> None:
    """A `RuntimeWarning` at the line outside this package that called it, however many calls lie between."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "allocation":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RuntimeWarning, stacklevel=level)
