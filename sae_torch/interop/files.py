"""Reading the files of the formats: what is missing, damaged or of another shape is one error that names the file.

They are written by `sae_torch.files`. No code in a file is ever run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.files import read_json
from sae_torch.interop.tensor_header import Shaped

if TYPE_CHECKING:
    from torch import Tensor

# What an entry of a configuration may be; null is as if it were not there.
TEXT, NUMBER, FLAG, TABLE, LIST = "a text", "a finite number", "true or false", "an object", "a list"
TEXT_OR_FLAG = "a text, or true or false"
# The types that weights may have.
FLOATS = ("float64", "float32", "float16", "bfloat16")
# Numbers that are looked at together: what is found of them takes little memory beside the file.
BLOCK = 1 << 22


def require(folder: Path, names: tuple[str, ...], kind: str) -> None:
    """Refuse a folder that lacks one of its files."""
    for name in names:
        if not (folder / name).is_file():
            raise InputError(f"{folder}: expected a {kind} folder, but {name} is missing")


def as_it_is(file: Path) -> tuple[Path, int, int]:
    """A file and what changes when it is written anew, so that what was read of it may be kept."""
    try:
        found = file.stat()
    except OSError as error:
        raise InputError(f"{file}: not readable: {error.strerror}") from None
    return file, found.st_mtime_ns, found.st_size


def check_shapes(file: Path, tensors: Mapping[str, Shaped], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Every named tensor must be there, in shape."""
    for name, shape in shapes.items():
        shape_there = tuple(tensors[name].shape) if name in tensors else "nothing"
        if shape_there != shape:
            raise InputError(f"{file}: {name}: expected shape {shape}, found {shape_there}")


def check_tensors(file: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Every named tensor must be there, in shape, and finite; all but single numbers of a floating-point type."""
    import torch

    check_shapes(file, tensors, shapes)
    for name in shapes:
        if tensors[name].ndim and type_name(tensors[name].dtype) not in FLOATS:
            raise InputError(f"{file}: {name}: expected {' or '.join(FLOATS)}, found {tensors[name].dtype}")
        flat = tensors[name].reshape(-1) if tensors[name].is_contiguous() else tensors[name].T.reshape(-1)
        if not all(bool(torch.isfinite(block).all()) for block in torch.split(flat, BLOCK)):
            raise InputError(f"{file}: {name} holds NaN or infinite values")


def type_name(dtype: Any) -> str:
    """A type of torch, or of a header, without the name of the library."""
    return str(dtype).removeprefix("torch.")


def matrix_shape(file: Path, tensors: Mapping[str, Shaped], name: str) -> tuple[int, int]:
    """Rows and columns of a tensor that has these."""
    if name not in tensors or tensors[name].ndim != 2:
        there = f"shape {tuple(tensors[name].shape)}" if name in tensors else "nothing"
        raise InputError(f"{file}: {name}: expected a matrix, found {there}")
    rows, columns = tensors[name].shape
    return rows, columns


def read_entries(file: Path, kinds: Mapping[str, str]) -> dict[str, Any]:
    """The object in a JSON file, those entries checked that a format reads."""
    config = read_json(file)
    check_entries(file, config, kinds)
    return config


def check_entries(file: Path, config: Mapping[str, Any], kinds: Mapping[str, str], table: str = "") -> None:
    """Every entry that is there must be of its kind; `table` names the object that holds them."""
    for name, kind in kinds.items():
        if config.get(name) is not None and not is_kind(config[name], kind):
            raise InputError(f"{file}: {table}{name}: expected {kind}, found {config[name]!r}")


def is_kind(value: Any, kind: str) -> bool:
    """Whether an entry is of a kind; a number that float64 does not hold is none."""
    if kind == NUMBER:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    types = {TEXT: (str,), FLAG: (bool,), TABLE: (dict,), LIST: (list,), TEXT_OR_FLAG: (str, bool)}
    return isinstance(value, types[kind])


def read_whole_number(file: Path, config: Mapping[str, Any], name: str) -> int:
    """A positive whole number of a configuration."""
    value: Any = config.get(name)
    if not is_kind(value, NUMBER) or value != int(value) or value < 1:
        raise InputError(f"{file}: {name} must be a whole number from 1, found {value!r}")
    return int(value)
