"""What makes a run repeat to the last bit: algorithms that do, and the state of every random generator."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Training itself draws nothing; a choice of the user's own may."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "numpy": (kind, torch.from_numpy(np.array(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }


def restore_random(state: dict[str, Any]) -> None:
    """Go on drawing where `random_state` was taken."""
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])


@contextlib.contextmanager
def deterministic(device: str) -> Iterator[None]:
    """On the CPU only algorithms that repeat; elsewhere the same bits are not promised."""
    if torch.device(device).type != "cpu":
        yield
        return
    filling: Any = torch.utils.deterministic
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filled = filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    filling.fill_uninitialized_memory = False  # only shows what reads memory it never wrote
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        filling.fill_uninitialized_memory = filled
