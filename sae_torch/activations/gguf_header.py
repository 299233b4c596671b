"""What stands before the weights of a GGUF file, read without its vocabulary.

The reader of the package gguf makes an array of every token, which takes seconds.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sae_torch.errors import InputError

# Types of values by their number in the file, as struct names them; 8 are strings, 9 arrays.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_FLOAT32 = 0


@dataclass(frozen=True, eq=False)
class GgufHeader:
    """Entries and tensors of a GGUF file by name.

    Attributes
    ----------
    entries : dict
        Numbers and strings; arrays are left out.
    tensors : dict
        Type, number of values and place in the file of every tensor.

    Source: the specification of GGUF, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
    """

    file: Path
    entries: dict[str, Any]
    tensors: dict[str, tuple[int, int, int]]

    @classmethod
    def read(cls, file: Path) -> GgufHeader:
        """The header of a file.

        Raises
        ------
        InputError
            If it is no GGUF file of version 2 or 3, or ends too early.
        """
        try:
            with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return cls._parsed(file, _Cursor(data))
        except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{file}: expected a GGUF file, found something else or a damaged file") from None

    @classmethod
    def _parsed(cls, file: Path, cursor: _Cursor) -> GgufHeader:
        magic, version = cursor.take("I"), cursor.take("I")
        if magic != int.from_bytes(b"GGUF", "little") or version not in (2, 3):
            raise InputError(f"{file}: expected a GGUF file of version 2 or 3, found something else")
        n_tensors, n_entries = cursor.take("Q"), cursor.take("Q")
        entries = {}
        for _ in range(n_entries):
            name = cursor.string()
            value = cursor.value(cursor.take("I"))
            if value is not None:
                entries[name] = value
        found = []
        for _ in range(n_tensors):
            name = cursor.string()
            count = 1
            for _ in range(cursor.take("I")):
                count *= cursor.take("Q")
            found.append((name, cursor.take("I"), count, cursor.take("Q")))
        alignment = entries.get("general.alignment", 32)
        start = -(-cursor.at // alignment) * alignment
        return cls(file, entries, {name: (kind, count, start + offset) for name, kind, count, offset in found})

    def float32(self, name: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """The values of a tensor that is stored as float32."""
        kind, count, start = self.tensors[name]
        if kind != _FLOAT32:
            raise InputError(f"{self.file}: {name}: expected float32, found a tensor of GGUF type {kind}")
        values = np.fromfile(self.file, "<f4", count, offset=start)
        if len(values) != count:
            raise InputError(f"{self.file}: {name}: expected {count} values, found {len(values)}")
        return values.astype(np.float32)


class _Cursor:
    """A place in the file that moves on."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def take(self, kind: str) -> Any:
        """The next number of a type."""
        (value,) = struct.unpack_from(f"<{kind}", self.data, self.at)
        self.at += struct.calcsize(f"<{kind}")
        return value

    def string(self) -> str:
        """The next string."""
        start = self.at + 8
        self.at = start + self.take("Q")
        return self.data[start : self.at].decode()

    def value(self, kind: int) -> Any:
        """The next value, None for an array, which is skipped."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.take(_NUMBERS[kind])
        of, count = self.take("I"), self.take("Q")
        if of in _NUMBERS:
            self.at += count * struct.calcsize(f"<{_NUMBERS[of]}")
            return None
        for _ in range(count):
            if of == _STRING:
                length = self.take("Q")
                self.at += length
            else:
                self.value(of)
        return None
