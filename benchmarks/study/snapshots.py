"""Where a training stands, kept on the disk: long ones go on where a process was stopped, with the same bits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.study.request import Request

SNAPSHOT = "snapshot.pt"
# Seconds between two of them.
EVERY = 300.0


@dataclass
class Snapshots:
    """Keeps the newest state of a training in the folder of its run.

    Parameters
    ----------
    folder
        Of the run.
    request
        What is trained: a state of another request is none.
    every
        Seconds of training between two states.
    """

    folder: Path
    request: Request
    every: float = EVERY
    _last: float = field(default_factory=time.monotonic)

    def newest(self) -> dict[str, Any] | None:
        """What was kept last, with the steps that were done as `step`."""
        file = self.folder / SNAPSHOT
        if not file.exists():
            return None
        kept: dict[str, Any] = torch.load(file, weights_only=True)
        return kept if kept["asked"] == self._asked else None

    def __call__(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Keep the state after so many steps, if it is time."""
        if time.monotonic() - self._last < self.every:
            return
        new = self.folder / f"{SNAPSHOT}.new"
        torch.save({**state(), "step": step, "asked": self._asked}, new)
        os.replace(new, self.folder / SNAPSHOT)
        self._last = time.monotonic()

    def done(self) -> None:
        """Remove what is not needed any more."""
        (self.folder / SNAPSHOT).unlink(missing_ok=True)

    @property
    def _asked(self) -> str:
        asked = {name: value for name, value in asdict(self.request).items() if name != "activations"}
        return f"{asked} {self.request.checksum}"
