"""Whether two finished runs hold the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

import sae_torch as st
from sae_torch.training.checkpoint import read_state


def tensors(state: Any, name: str = "") -> dict[str, Tensor]:
    """Every tensor in a state, by the path to it."""
    if isinstance(state, Tensor):
        return {name: state}
    inner = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    return {path: tensor for key, value in inner for path, tensor in tensors(value, f"{name}/{key}").items()}


def finished(out: Path) -> dict[str, Tensor]:
    """All that a finished run holds: its last checkpoint, and the weights saved for use."""
    found = tensors(read_state(out / "checkpoints" / "finished")["trainers"])
    for folder in sorted(out.glob("*-k*")):
        found |= tensors(st.load(folder).state_dict(), folder.name)
    return found


def assert_same_bits(one: Path, other: Path) -> None:
    """Weights, thresholds, ledger, optimiser, usage and saved files are the same bytes."""
    there, here = finished(one), finished(other)
    assert there.keys() == here.keys()
    for part in ("encoder", "theta", "exp_avg_sq", "silent_for"):
        assert any(part in name for name in there), part
    for name, value in there.items():
        assert value.stride() == here[name].stride(), name
        assert value.contiguous().numpy().tobytes() == here[name].contiguous().numpy().tobytes(), name
    for folder in one.glob("*-k*"):
        for file in folder.iterdir():
            assert file.read_bytes() == (other / folder.name / file.name).read_bytes(), file
