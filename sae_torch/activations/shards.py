"""Activation shards: one safetensors file each, written atomically, checked, memory-mapped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sae_torch.activations.rows import located
from sae_torch.errors import InputError
from sae_torch.files import replacing

TENSORS = ("activations", "window", "position", "token_ids", "documents")
_LEFTOVER_SECONDS = 3600.0
_ROWS_AT_ONCE = 16384


class CorruptShardError(InputError):
    """A shard is truncated, altered, or belongs to something else; the text names the file and the remedy."""


@dataclass(frozen=True)
class Shard:
    """Activations of some windows, and the text they come from.

    Parameters
    ----------
    activations : (tokens, d_model) float16, bfloat16 or float32
        The rows, float16 unless asked otherwise; dropped tokens have none.
    window : (tokens,) int32
        For each row its window in this shard.
    position : (tokens,) int32
        For each row its position in the window.
    token_ids : (windows, length) int32
        All tokens, dropped ones too.
    documents : (windows, length) int32
        Index of each token's document.
    header : mapping of str to str
        The provenance and the document names that were stored with it.
    """

    activations: Tensor
    window: Tensor
    position: Tensor
    token_ids: Tensor
    documents: Tensor
    header: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.activations.shape[0]


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard so that `path` either holds all of it or does not exist.

    Raises
    ------
    OSError
        If the folder cannot be written or the disk is full; the temporary file is removed.
    """
    from safetensors.torch import save_file

    tensors = {name: getattr(shard, name).contiguous() for name in TENSORS}
    header = dict(shard.header) | {"sha256": _digest(tensors)}
    with replacing(path) as beside:
        save_file(tensors, beside, metadata=header)
        _sort_header(beside)


def read_shard(path: Path, expect: Mapping[str, str] | None = None, verify: bool = True) -> Shard:
    """Map a shard into memory.

    Parameters
    ----------
    path : path
        The safetensors file.
    expect : mapping of str to str, optional
        Entries that its header must hold: the provenance of the harvest.
    verify : bool
        Whether to compare the tensors with the stored digest, which reads the whole file.

    Raises
    ------
    CorruptShardError
        If the file is truncated or altered, or comes from another harvest.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in TENSORS}
    except SafetensorError as error:
        raise CorruptShardError(f"shard {path} is damaged ({error}); delete it and harvest again") from error
    if verify and _digest(tensors) != header.get("sha256"):
        raise CorruptShardError(
            f"shard {path} is damaged (its tensors do not match the digest in its header); delete it and harvest again"
        )
    for name, value in (expect or {}).items():
        if header.get(name) != value:
            raise CorruptShardError(
                f"shard {path} is from another harvest: its {name} is {header.get(name)!r}, "
                f"expected {value!r}; delete it and harvest again"
            )
    return Shard(**tensors, header=header)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of writers that were killed more than an hour ago."""
    for file in folder.glob(".*.tmp"):
        if time.time() - file.stat().st_mtime > _LEFTOVER_SECONDS:
            file.unlink(missing_ok=True)


def _sort_header(path: Path) -> None:
    """Bring the entries of the header into one order: safetensors writes them in another one each time it runs."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        if len(ordered) != size:
            raise AssertionError(f"the header of {path} has another length in order")
        file.seek(8)
        file.write(ordered)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in TENSORS:
        tensor = tensors[name]
        # NumPy has no bfloat16; its bits do as well
        array = (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


@dataclass(frozen=True)
class Context:
    """Where one token of a set of activations stands in the text.

    Parameters
    ----------
    token_ids : tuple of int
        Ids of the tokens around it, in order.
    index : int
        Index of the token itself in `token_ids`.
    document : str
        Name of its document.
    """

    token_ids: tuple[int, ...]
    index: int
    document: str


@dataclass(frozen=True)
class Activations:
    """The first `n_tokens` activations of consecutive shards.

    Nothing is read until it is asked for; the shards stay memory-mapped.

    Parameters
    ----------
    shards : tuple of Shard
        Shards in order.
    n_tokens : int
        How many rows of them count, from the first; at least 1 and at most all.
    """

    shards: tuple[Shard, ...]
    n_tokens: int

    def __post_init__(self) -> None:
        held = sum(map(len, self.shards))
        if not 0 < self.n_tokens <= held:
            raise InputError(f"n_tokens: expected between 1 and the {held} rows of the shards, found {self.n_tokens}")

    def __len__(self) -> int:
        return self.n_tokens

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.shards[0].activations.shape[1]

    @property
    def header(self) -> Mapping[str, str]:
        """Provenance, the same for every shard."""
        return self.shards[0].header

    def tensor(self, dtype: torch.dtype = torch.float16) -> Tensor:
        """All rows as one ``(n_tokens, d_model)`` tensor in memory."""
        out = torch.empty(self.n_tokens, self.d_model, dtype=dtype)
        start = 0
        for shard in self.shards:
            rows = min(len(shard), self.n_tokens - start)
            out[start : start + rows] = shard.activations[:rows]
            start += rows
        return out

    def gather(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows by index, ``(len(rows), d_model)``, in the order of `rows`."""
        out = torch.empty(len(rows), self.d_model, dtype=dtype)
        for shard, where, local in self._locate(rows):
            out[where] = shard.activations[local].to(dtype)
        return out

    def mean(self) -> Tensor:
        """Mean activation, ``(d_model,)`` float32, summed in float64."""
        total = torch.zeros(self.d_model, dtype=torch.float64)
        for start in range(0, self.n_tokens, _ROWS_AT_ONCE):
            rows = torch.arange(start, min(start + _ROWS_AT_ONCE, self.n_tokens))
            total += self.gather(rows, torch.float64).sum(0)
        return (total / self.n_tokens).float()

    def windows(self, count: int) -> Tensor:
        """Token ids of the first windows, ``(count or fewer, length)`` int32, dropped tokens included."""
        return torch.cat([shard.token_ids for shard in self.shards])[:count]

    def context(self, row: int, before: int = 16, after: int = 8) -> Context:
        """Text around one row, within its window."""
        ((shard, _, local),) = self._locate(torch.tensor([row]))
        window, position = int(shard.window[local]), int(shard.position[local])
        start = max(0, position - before)
        ids = shard.token_ids[window, start : position + after + 1]
        names: list[str] = json.loads(shard.header["documents"])
        return Context(
            token_ids=tuple(ids.tolist()),
            index=position - start,
            document=names[int(shard.documents[window, position])],
        )

    @property
    def _sizes_counted(self) -> list[int]:
        """Rows of each shard that count."""
        sizes, left = [], self.n_tokens
        for shard in self.shards:
            sizes.append(min(len(shard), left))
            left -= sizes[-1]
        return sizes

    def _locate(self, rows: Tensor) -> list[tuple[Shard, Tensor, Tensor]]:
        """For each shard that is touched: the shard, which of `rows` lie in it, and their local indices."""
        found = located(rows, self._sizes_counted)
        return [(self.shards[owner], where, local) for owner, where, local in found]
