"""Errors that are about what the user gave, not about this code."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """Input that cannot be used; the text is one sentence that says what was found and what is expected.

    The command line prints that sentence and exits with 2.
    """


class ShortTextError(InputError):
    """A split of the text holds fewer tokens than were asked for: `tokens`, all of which were harvested."""

    def __init__(self, text: str, tokens: int = 0) -> None:
        super().__init__(text)
        self.tokens = tokens


class InterruptedRunError(Exception):
    """A run was interrupted by the user; the text says while doing what. What was finished is on disk.

    `code` is what the command line exits with: 0 where the same command goes on as if nothing had happened.
    """

    def __init__(self, text: str, code: int = 130) -> None:
        super().__init__(text)
        self.code = code


class LostProcessError(RuntimeError):
    """Another process of the run has ended or does not answer, so that this one cannot go on either.

    `tell` says whether this process is the one that tells the user; `missing` are the ranks that did not answer.
    """

    def __init__(self, text: str, tell: bool, missing: Sequence[int] = ()) -> None:
        super().__init__(text)
        self.tell, self.missing = tell, tuple(missing)
