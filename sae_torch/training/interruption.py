"""Ctrl-C and SIGTERM end a step, not the middle of one; one process per folder. How a run resumes is in `run`."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from sae_torch.errors import InputError


class Interruption:
    """Whether the user or the machine asked the process to stop.

    Outside `deferred` a signal raises KeyboardInterrupt at once; inside it only sets `requested`, and a second signal
    raises. Of several processes every one gets each signal two times, from the terminal and from `torchrun`: there
    the first counts.
    """

    def __init__(self) -> None:
        self.requested = self.several = False
        self._deferring = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Take the signals of this process; only its main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if self.several and self.requested else handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Let what happens inside come to an end of its own."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if again and self.several:
            return
        if again or not self._deferring:
            raise KeyboardInterrupt


@contextlib.contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it when the process ends, however it ends.

    Raises
    ------
    InputError
        If another process holds it.
    """
    # never by a file that is merely there: one that a killed process left would lock the folder for good
    lock = FileLock(folder / ".lock", fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(f"{folder} is in use by another process; wait for it or choose another --out") from None
    try:
        yield
    finally:
        lock.release()
