"""Reading the files of the formats: what is missing, damaged or of another shape is one error that names the file.

They are written by `sae_torch.files`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_torch.errors import InputError


def require(folder: Path, names: tuple[str, ...], kind: str) -> None:
    """Refuse a folder that lacks one of its files."""
    for name in names:
        if not (folder / name).is_file():
            raise InputError(f"{folder}: expected a {kind} folder, but {name} is missing")


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not readable as safetensors: {error}") from None


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The tensors of a torch file, which may hold nothing else: no code in it is ever run."""
    import pickle

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"{file}: not readable as a state dict: {str(error).splitlines()[0]}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{file}: expected a state dict, found something else")
    return state


def check_tensors(file: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Every named tensor must be there, in shape, and finite."""
    for name, shape in shapes.items():
        shape_there = tuple(tensors[name].shape) if name in tensors else "nothing"
        if shape_there != shape:
            raise InputError(f"{file}: {name}: expected shape {shape}, found {shape_there}")
        if not bool(torch.isfinite(tensors[name]).all()):
            raise InputError(f"{file}: {name} holds NaN or infinite values")


def read_whole_number(file: Path, config: Mapping[str, Any], name: str) -> int:
    """A positive whole number of a configuration."""
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 1:
        raise InputError(f"{file}: {name} must be a whole number from 1, found {value!r}")
    return int(value)
