"""Where a training stands, kept on the disk: long ones go on where a process was stopped, with the same bits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.study.code_names import code_names
from benchmarks.study.request import Request
from sae_torch.files import replacing

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
        What is trained.
    conditions
        How: settings and versions, as JSON can hold them. A state of another request, or of other conditions, is none.
    every
        Seconds of training between two states.
    """

    folder: Path
    request: Request
    conditions: Mapping[str, Any] = field(default_factory=dict)
    every: float = EVERY

    def __post_init__(self) -> None:
        self._start = self._last = time.monotonic()

    @cached_property
    def begun(self) -> dict[str, Any] | None:
        """What a process that was stopped kept last, with the steps it had done as `step`; None where there is none."""
        try:
            kept: dict[str, Any] = torch.load(self.folder / SNAPSHOT, weights_only=True)
        except Exception:  # none, or cut off: torch has errors of many types for that
            return None
        return kept if kept.get("asked") == self._asked else None

    @property
    def seconds(self) -> float:
        """Of training, in all processes so far."""
        before = self.begun["seconds"] if self.begun else 0.0
        return float(before + time.monotonic() - self._start)

    @cached_property
    def code(self) -> list[dict[str, str]]:
        """Of what code the processes were that trained, each once."""
        before, now = self.begun["code"] if self.begun else [], code_names()
        return [*before, now] if now not in before else before

    def __call__(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Keep the state after so many steps, if it is time."""
        if time.monotonic() - self._last < self.every:
            return
        kept = {"step": step, "asked": self._asked, "seconds": self.seconds, "code": self.code}
        with replacing(self.folder / SNAPSHOT) as beside:
            torch.save({**state(), **kept}, beside)
        self._last = time.monotonic()

    def done(self) -> None:
        """Remove what is not needed any more."""
        (self.folder / SNAPSHOT).unlink(missing_ok=True)

    @cached_property
    def _asked(self) -> str:
        asked = {name: value for name, value in asdict(self.request).items() if name != "activations"}
        return json.dumps([asked, self.request.checksum, self.conditions], sort_keys=True)
