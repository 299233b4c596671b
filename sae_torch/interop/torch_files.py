"""Torch files, `.pt`: tensors and plain values by name; read with `weights_only`, so that no code in them runs."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.interop.files import as_it_is
from sae_torch.interop.tensor_header import TensorHeader

if TYPE_CHECKING:
    from torch import Tensor


def read_objects(file: Path) -> dict[str, Any]:
    """What a torch file holds by name: tensors, mapped where it is a zip archive, and plain values."""
    import torch

    as_it_is(file)
    try:
        mapped = zipfile.is_zipfile(file)  # files from before 2020 are none, and cannot be mapped
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # what damaged bytes make of a parser is any error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{file}: not readable as a state dict: {reason}") from None
    if not isinstance(state, Mapping):
        raise InputError(f"{file}: expected a state dict, found something else")
    return {str(name): value for name, value in state.items()}


def read_outline_of(file: Path) -> dict[str, Any]:
    """The same with headers in place of tensors."""
    from torch import Tensor

    return {name: _header(value) if isinstance(value, Tensor) else value for name, value in read_objects(file).items()}


def _header(tensor: Tensor) -> TensorHeader:
    return TensorHeader(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
