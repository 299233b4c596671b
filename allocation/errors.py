"""What can go wrong, one exception a cause."""

from __future__ import annotations


class InvalidProblemError(ValueError):
    """An argument of a problem is not what it must be; the message names it, where, and what was expected."""


class InfeasibleError(ValueError):
    """No allocation satisfies every floor and cap; the message names a set of them that cannot hold together."""


class UnsupportedProblemError(NotImplementedError):
    """The chosen solver does not solve this combination of constraints; the message says which one does."""


class NotCertifiedError(RuntimeError):
    """A solver ended without a certified optimum; the message gives the best gap and what to do."""
