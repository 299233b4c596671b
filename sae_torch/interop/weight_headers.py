"""What files of weights hold, by their headers: nothing of the values is read, and torch for unusual torch files alone.

Files say shapes and types in front of the values or beside them, so that one of any size takes milliseconds.
"""

from __future__ import annotations

import functools
import json
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sae_torch.errors import InputError
from sae_torch.interop.files import as_it_is
from sae_torch.interop.tensor_header import TensorHeader
from sae_torch.interop.torch_headers import outline_without_torch

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", ".npz", *TORCH_SUFFIXES)
# The types of safetensors that weights may have, as torch calls them, and the bytes of a number.
SAFETENSORS_TYPES = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2),
    "I64": ("int64", 8), "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1), "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}  # fmt: skip
# Those of NumPy that torch has too, under the same names.
ARRAY_TYPES = (
    "float64", "float32", "float16", "complex128", "complex64", "int64", "int32", "int16", "int8",
    "uint64", "uint32", "uint16", "uint8", "bool",
)  # fmt: skip
# No header is longer; a file that says so is damaged.
LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Entry:
    """Where a safetensors file has a tensor: its header, and its bytes from the first after the file's header."""

    header: TensorHeader
    begin: int
    stop: int


def read_header(file: Path) -> Mapping[str, TensorHeader]:
    """Shapes and types of a file's tensors.

    Parameters
    ----------
    file : path
        With a suffix of `SUFFIXES`.

    Returns
    -------
    mapping of str to TensorHeader

    Raises
    ------
    InputError
        If the file is damaged, incomplete, or holds something else; the text names it.
    """
    return {name: value for name, value in read_outline(file).items() if isinstance(value, TensorHeader)}


def read_outline(file: Path) -> Mapping[str, Any]:
    """As `read_header`, with the other values that a torch file may hold as they are; what was read last is kept."""
    return _outline(*as_it_is(file))


def is_one_value(file: Path, name: str) -> bool:
    """Whether all numbers of a tensor of a safetensors file are the same, bit for bit."""
    start, entries = safetensors_header(file)
    entry = entries[name]
    count = entry.header.numel()
    if not count:
        return True
    flat: Any = np.memmap(file, np.uint8, mode="r", offset=start + entry.begin, shape=entry.stop - entry.begin)
    values = flat.reshape(count, -1)
    return bool((values == values[:1]).all())


@functools.lru_cache(maxsize=8)
def _outline(file: Path, changed: int, size: int) -> Mapping[str, Any]:
    if file.suffix in TORCH_SUFFIXES:
        if (outline := outline_without_torch(file)) is not None:
            return outline
        from sae_torch.interop.torch_files import read_outline_of  # imports torch, which takes seconds

        return read_outline_of(file)
    if file.suffix == ".safetensors":
        return {name: entry.header for name, entry in safetensors_header(file)[1].items()}
    if file.suffix == ".npz":
        with archive_of(file) as archive:
            members = {name.removesuffix(".npy"): npy_header(file, archive, name) for name in archive.namelist()}
        return {name: TensorHeader(array_type(file, name, dtype), shape) for name, (dtype, shape, _) in members.items()}
    raise InputError(f"{file}: expected a file of {', '.join(SUFFIXES)}")


def safetensors_header(file: Path) -> tuple[int, dict[str, Entry]]:
    """Where the values begin, and where every tensor has its own."""
    damaged = f"{file}: not readable as safetensors: "
    size = as_it_is(file)[2]
    with file.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(size - 8, LONGEST_HEADER):
            raise InputError(f"{damaged}it has no header, or is incomplete")
        text = stream.read(length)
    entries = {}
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        for name, said in header.items():
            dtype, bytes_each = SAFETENSORS_TYPES[said["dtype"]]
            begin, stop = map(int, said["data_offsets"])
            entries[str(name)] = Entry(TensorHeader(dtype, tuple(map(int, said["shape"]))), begin, stop), bytes_each
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{damaged}its header says {type(error).__name__}: {error}") from None
    for name, (entry, bytes_each) in entries.items():
        shape, length_said = entry.header.shape, entry.stop - entry.begin
        fits = min(shape, default=0) >= 0 and length_said == entry.header.numel() * bytes_each
        if not (0 <= entry.begin <= entry.stop and fits):
            raise InputError(f"{damaged}the bytes of {name} do not fit its shape {shape}")
    expected = 8 + length + max((entry.stop for entry, _ in entries.values()), default=0)
    if size < expected:
        raise InputError(f"{damaged}it is incomplete, expected {expected} bytes, found {size}")
    return 8 + length, {name: entry for name, (entry, _) in entries.items()}


def archive_of(file: Path) -> zipfile.ZipFile:
    """An archive of arrays, opened."""
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise InputError(f"{file}: not readable as an archive of arrays, or incomplete: {error}") from None


def npy_header(file: Path, archive: zipfile.ZipFile, member: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Type and shape of an array, and where in its member the values begin."""
    try:
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(stream)
            begin = stream.tell()
    except Exception as error:  # what damaged bytes make of a parser is any error
        raise InputError(f"{file}: {member}: not readable as an array: {error}") from None
    if dtype.hasobject:
        raise InputError(f"{file}: {member}: expected numbers, found objects, which are never read: they may hold code")
    if fortran and len(shape) > 1:
        raise InputError(f"{file}: {member}: expected rows one after the other, found columns")
    return dtype, shape, begin


def array_type(file: Path, name: str, dtype: np.dtype[Any]) -> str:
    """What torch calls a type of NumPy."""
    if dtype.name not in ARRAY_TYPES or not dtype.isnative:
        raise InputError(f"{file}: {name}: expected numbers that torch has, found {dtype}")
    return dtype.name
