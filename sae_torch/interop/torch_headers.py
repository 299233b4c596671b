"""What a torch file holds, without torch: names, shapes and types are in a short pickle beside the values.

The pickle is read by names that are known here, each of which makes a plain value; no code in it runs. For any other
name, and for files that are not archives, torch is asked.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sae_torch.interop.tensor_header import Shaped, TensorHeader

# Types of storages as torch names them in files, what it calls their numbers, and the bytes of one.
STORAGES = {
    "DoubleStorage": ("float64", 8), "FloatStorage": ("float32", 4), "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2), "LongStorage": ("int64", 8), "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2), "CharStorage": ("int8", 1), "ByteStorage": ("uint8", 1), "BoolStorage": ("bool", 1),
}  # fmt: skip
# No list of names is longer; a larger one is left to torch.
LONGEST = 1 << 26


def outline_without_torch(file: Path) -> dict[str, Any] | None:
    """Headers of tensors and plain values by name; None where only torch can tell, or can say what is wrong."""
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
            (names,) = [name for name in sizes if name.endswith("/data.pkl") and name.count("/") == 1]
            if sizes[names] > LONGEST:
                return None
            with archive.open(names) as stream:
                state = _Names(stream, sizes, names.removesuffix("data.pkl")).load()
    except Exception:  # what damaged bytes make of a parser is any error, and torch says which
        return None
    return {str(name): value for name, value in state.items()} if isinstance(state, Mapping) else None


def number_of(file: Path, header: Shaped) -> int | float | None:
    """The value of a tensor of one number; None where only torch can tell."""
    place = header.place if isinstance(header, TensorHeader) else None
    if place is None or header.numel() != 1 or header.dtype == "bfloat16":
        return None
    kind = np.dtype(header.dtype).newbyteorder("<")
    try:
        with zipfile.ZipFile(file) as archive, archive.open(place[0]) as stream:
            stream.seek(place[1] * kind.itemsize)
            number: int | float = np.frombuffer(stream.read(kind.itemsize), kind)[0].item()
            return number
    except Exception:  # as above
        return None


class _Names(pickle.Unpickler):
    """Reads plain values and what is said of tensors."""

    def __init__(self, stream: Any, sizes: Mapping[str, int], folder: str) -> None:
        super().__init__(stream)
        self.sizes, self.folder = sizes, folder

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name of the file."""
        return _KNOWN[module, name]

    def persistent_load(self, saved: Any) -> tuple[str, str]:
        """The type of numbers of a storage, all of which are there, and the member that holds them."""
        kind, (dtype, bytes_each), key, _, count = saved
        member = f"{self.folder}data/{key}"
        if kind != "storage" or self.sizes[member] != count * bytes_each:
            raise ValueError(key)
        return dtype, member


def _tensor(storage: tuple[str, str], offset: int, shape: Any, *_: Any) -> TensorHeader:
    dtype, member = storage
    return TensorHeader(dtype, tuple(int(length) for length in shape), (member, int(offset)))


def _parameter(tensor: TensorHeader, *_: Any) -> TensorHeader:
    return tensor


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): numbers for name, numbers in STORAGES.items()},
}
