"""The processes that `torchrun` started beside this one, as the environment says: torch is not needed to know."""

from __future__ import annotations

import os


def leads() -> bool:
    """Whether this is the process, of those that `torchrun` started, that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def launch() -> list[str]:
    """The words that start a module of Python as this process was started, beside as many others."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    here = os.environ.get("LOCAL_WORLD_SIZE", str(started))
    return ["python", "-m"] if started == 1 else ["torchrun", "--nproc-per-node", here, "-m"]
