"""The tensors in files of weights, by suffix: `.safetensors`, `.npz`, `.pt`; `weight_headers` reads headers alone.

Tensors are views of the mapped file where its layout allows: pages are read when they are used, and may be forgotten.
Nothing that a pickle says is run: torch files are read with `weights_only`, arrays without pickle.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_torch.errors import InputError
from sae_torch.interop.torch_files import read_objects
from sae_torch.interop.weight_headers import (
    SUFFIXES,
    TORCH_SUFFIXES,
    archive_of,
    array_type,
    npy_header,
    safetensors_header,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Bytes that are read together.
CHUNK = 1 << 20


def read_tensors(file: Path) -> dict[str, Tensor]:
    """A file's tensors by name, lazily where its layout allows.

    Raises
    ------
    InputError
        If the file is damaged or incomplete, or holds anything else than tensors; the text names it.
    """
    if file.suffix not in TORCH_SUFFIXES:
        return _reader(file)(file)
    from torch import Tensor

    state = read_objects(file)
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{file}: expected a state dict, found something else")
    return dict(state)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as views of the mapped file."""
    import torch

    start, entries = safetensors_header(file)
    if not entries:
        return {}
    mapped = torch.from_numpy(np.memmap(file, np.uint8, mode="c"))
    tensors = {}
    for name, entry in entries.items():
        flat = mapped[start + entry.begin : start + entry.stop]
        tensors[name] = _typed(flat, getattr(torch, entry.header.dtype)).reshape(entry.header.shape)
    return tensors


def _reader(file: Path) -> Callable[[Path], dict[str, Tensor]]:
    if file.suffix == ".safetensors":
        return read_safetensors
    if file.suffix == ".npz":
        return _read_npz
    raise InputError(f"{file}: expected a file of {', '.join(SUFFIXES)}")


def _typed(flat: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as numbers; a copy where they do not lie where numbers of the type may."""
    import torch

    from sae_torch.retyped import retyped

    if flat.data_ptr() % dtype.itemsize:
        flat = flat.clone()
    elif flat.storage_offset() % dtype.itemsize:
        flat = torch.from_numpy(flat.numpy())
    return retyped(flat, dtype)


def _read_npz(file: Path) -> dict[str, Tensor]:
    """Arrays as views of the mapped file where they were stored as they are, else read."""
    import torch

    tensors = {}
    with archive_of(file) as archive:
        for info in archive.infolist():
            dtype, shape, begin = npy_header(file, archive, info.filename)
            name = info.filename.removesuffix(".npy")
            array_type(file, name, dtype)
            count = int(np.prod(shape, dtype=object))
            if info.file_size != begin + count * dtype.itemsize:
                raise InputError(f"{file}: {name}: the bytes do not fit its shape {shape}")
            at = _data_offset(file, info) + begin
            if info.compress_type == zipfile.ZIP_STORED and at % dtype.itemsize == 0 and count:
                array: Any = np.memmap(file, dtype, mode="c", offset=at, shape=shape)
            else:
                try:
                    array = _read_array(archive, info, begin, dtype, shape)
                except Exception as error:  # as above
                    raise InputError(f"{file}: {name}: not readable as an array: {error}") from None
            tensors[name] = torch.from_numpy(array)
    return tensors


def _read_array(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, begin: int, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """An array that cannot be mapped, once in memory: numbers must lie where numbers of the type may."""
    array = np.empty(shape, dtype)
    left = array.reshape(-1).view(np.uint8).data
    with archive.open(info) as opened:
        stream: Any = opened  # whose type does not name `readinto`
        stream.read(begin)
        while left:
            count = stream.readinto(left[:CHUNK])
            if not count:
                raise EOFError("it ends early")
            left = left[count:]
        stream.read(1)  # the end, where the checksum is compared
    return array


def _data_offset(file: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: its own header may be longer than the one in the directory."""
    with file.open("rb") as stream:
        stream.seek(info.header_offset)
        local = stream.read(30)
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise InputError(f"{file}: {info.filename}: not readable as an array: its header is damaged")
    name, extra = struct.unpack("<HH", local[26:30])
    return info.header_offset + 30 + int(name) + int(extra)
