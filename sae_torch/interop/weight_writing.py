"""Writing a safetensors file block by block: its tensors are never all in memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_torch.files import replacing
from sae_torch.interop.files import type_name
from sae_torch.interop.weight_headers import SAFETENSORS_TYPES
from sae_torch.retyped import retyped


@dataclass(frozen=True)
class Rows:
    """A tensor to write, as rows that come in blocks.

    Attributes
    ----------
    shape : tuple of int
    dtype : torch.dtype
    blocks : iterable of tensors
        Some rows after the other, all of `dtype`.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    blocks: Iterable[Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> Rows:
        """A tensor in one block."""
        return cls(tuple(tensor.shape), tensor.dtype, (tensor,))


def write_safetensors(file: Path, tensors: Mapping[str, Rows]) -> None:
    """Write a file that is whole or not there, with the tensors in the given order.

    Parameters
    ----------
    file : Path
    tensors : mapping of str to Rows
    """
    names = {dtype: name for name, (dtype, _) in SAFETENSORS_TYPES.items()}
    header: dict[str, Any] = {}
    end = 0
    for name, rows in tensors.items():
        begin, end = end, end + torch.Size(rows.shape).numel() * rows.dtype.itemsize
        header[name] = {"dtype": names[type_name(rows.dtype)], "shape": rows.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values then lie where numbers of any type may
    with replacing(file) as beside, beside.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name, rows in tensors.items():
            before = stream.tell()
            for block in rows.blocks:
                numbers: Any = retyped(block.detach().contiguous().view(-1), torch.uint8).numpy()
                stream.write(numbers)
                del block, numbers  # the next block is made while this one would still be held
            assert stream.tell() - before == header[name]["data_offsets"][1] - header[name]["data_offsets"][0], name
