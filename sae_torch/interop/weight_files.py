"""Files of weights by their suffix, `.safetensors`, `.npz`, `.pt`: what they hold without reading it, and lazily.

Tensors are views of the mapped file where its layout allows: pages are read when they are used, and may be forgotten.
Nothing that a pickle says is run: torch files are read with `weights_only`, arrays without pickle.
"""

from __future__ import annotations

import functools
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_torch.errors import InputError

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", ".npz", *TORCH_SUFFIXES)
# The types of safetensors that weights may have.
SAFETENSORS_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
# Bytes that are read together.
CHUNK = 1 << 20
# No header is longer; a file that says so is damaged.
LONGEST_HEADER = 100_000_000


def read_header(file: Path) -> Mapping[str, Tensor]:
    """Shapes and types of a file's tensors, as tensors on the device "meta": nothing of their values is read.

    Parameters
    ----------
    file : path
        With a suffix of `SUFFIXES`.

    Returns
    -------
    mapping of str to meta tensor

    Raises
    ------
    InputError
        If the file is damaged, incomplete, or holds something else; the text names it.
    """
    return {name: value for name, value in read_outline(file).items() if isinstance(value, Tensor)}


def read_outline(file: Path) -> Mapping[str, Any]:
    """As `read_header`, with the other values that a torch file may hold as they are; what was read last is kept."""
    return _outline(*_as_it_is(file))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """A file's tensors by name, lazily where its layout allows.

    Raises
    ------
    InputError
        As `read_header`; of a torch file also where it holds anything else than tensors.
    """
    if file.suffix not in TORCH_SUFFIXES:
        return _reader(file)(file)
    state = read_objects(file)
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{file}: expected a state dict, found something else")
    return dict(state)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as views of the mapped file."""
    start, entries = _safetensors_header(file)
    if not entries:
        return {}
    mapped = torch.from_numpy(np.memmap(file, np.uint8, mode="c"))
    tensors = {}
    for name, (dtype, shape, first, stop) in entries.items():
        flat = mapped[start + first : start + stop]
        tensors[name] = _typed(flat, dtype).reshape(shape)
    return tensors


def _as_it_is(file: Path) -> tuple[Path, int, int]:
    """A file and what changes when it is written anew, so that what was read of it may be kept."""
    try:
        found = file.stat()
    except OSError as error:
        raise InputError(f"{file}: not readable: {error.strerror}") from None
    return file, found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=8)
def _outline(file: Path, changed: int, size: int) -> Mapping[str, Any]:
    if file.suffix in TORCH_SUFFIXES:
        held = read_objects(file)
        return {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in held.items()}
    if file.suffix == ".safetensors":
        _, entries = _safetensors_header(file)
        return {name: torch.empty(shape, dtype=dtype, device="meta") for name, (dtype, shape, *_) in entries.items()}
    if file.suffix == ".npz":
        with _archive(file) as archive:
            members = {name.removesuffix(".npy"): _npy_header(file, archive, name) for name in archive.namelist()}
        return {name: torch.empty(shape, dtype=_torch_type(file, name, dtype), device="meta")
                for name, (dtype, shape, _) in members.items()}  # fmt: skip
    raise InputError(f"{file}: expected a file of {', '.join(SUFFIXES)}")


def _reader(file: Path) -> Callable[[Path], dict[str, Tensor]]:
    if file.suffix == ".safetensors":
        return read_safetensors
    if file.suffix == ".npz":
        return _read_npz
    raise InputError(f"{file}: expected a file of {', '.join(SUFFIXES)}")


Entry = tuple[torch.dtype, tuple[int, ...], int, int]


def _safetensors_header(file: Path) -> tuple[int, dict[str, Entry]]:
    """Where the values begin, and of every tensor the type, the shape, and its bytes."""
    damaged = f"{file}: not readable as safetensors: "
    size = _as_it_is(file)[2]
    with file.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(size - 8, LONGEST_HEADER):
            raise InputError(f"{damaged}it has no header, or is incomplete")
        text = stream.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = {
            str(name): (SAFETENSORS_TYPES[entry["dtype"]], tuple(map(int, entry["shape"])), int(begin), int(stop))
            for name, entry in header.items()
            for begin, stop in [entry["data_offsets"]]
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{damaged}its header says {type(error).__name__}: {error}") from None
    for name, (dtype, shape, begin, stop) in entries.items():
        if not (
            0 <= begin <= stop
            and min(shape, default=0) >= 0
            and stop - begin == int(np.prod(shape, dtype=object)) * dtype.itemsize
        ):
            raise InputError(f"{damaged}the bytes of {name} do not fit its shape {shape}")
    expected = 8 + length + max((entry[3] for entry in entries.values()), default=0)
    if size < expected:
        raise InputError(f"{damaged}it is incomplete, expected {expected} bytes, found {size}")
    return 8 + length, entries


def _typed(flat: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as numbers; a copy where they do not lie where numbers of the type may."""
    if flat.data_ptr() % dtype.itemsize:
        flat = flat.clone()
    elif flat.storage_offset() % dtype.itemsize:
        flat = torch.from_numpy(flat.numpy())
    return flat.view(dtype)


def _archive(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise InputError(f"{file}: not readable as an archive of arrays, or incomplete: {error}") from None


def _npy_header(file: Path, archive: zipfile.ZipFile, member: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
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


def _torch_type(file: Path, name: str, dtype: np.dtype[Any]) -> torch.dtype:
    try:
        return torch.from_numpy(np.empty(0, dtype)).dtype
    except TypeError as error:
        raise InputError(f"{file}: {name}: expected numbers that torch has, found {dtype}") from error


def _read_npz(file: Path) -> dict[str, Tensor]:
    """Arrays as views of the mapped file where they were stored as they are, else read."""
    tensors = {}
    with _archive(file) as archive:
        for info in archive.infolist():
            dtype, shape, begin = _npy_header(file, archive, info.filename)
            name = info.filename.removesuffix(".npy")
            _torch_type(file, name, dtype)
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


def read_objects(file: Path) -> dict[str, Any]:
    """What a torch file holds by name: tensors, mapped where it is a zip archive, and plain values."""
    _as_it_is(file)
    try:
        mapped = zipfile.is_zipfile(file)  # files from before 2020 are none, and cannot be mapped
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # what damaged bytes make of a parser is any error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{file}: not readable as a state dict: {reason}") from None
    if not isinstance(state, Mapping):
        raise InputError(f"{file}: expected a state dict, found something else")
    return {str(name): value for name, value in state.items()}
