"""Rows of activations wherever they lie: what a reader shuffles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_torch.errors import InputError

_READABLE = tuple(map(np.dtype, (np.float16, np.float32, np.float64)))


class Rows(Protocol):
    """Activations by row index: `Activations` of shards, `ArrayRows` of other files, or a class of your own.

    Examples
    --------
    >>> import numpy as np
    >>> from sae_torch.activations import ArrayRows, Rows
    >>> rows: Rows = ArrayRows((np.eye(2),))
    >>> len(rows), rows.d_model
    (2, 2)
    """

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        ...

    @property
    def header(self) -> Mapping[str, str]:
        """Where they come from."""
        ...

    def __len__(self) -> int: ...

    def gather(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows by index, ``(len(rows), d_model)`` of type `dtype`, in the order of `rows`."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """Rows of several arrays after one another; memory-mapped ones stay on disk.

    Parameters
    ----------
    arrays : sequence of (rows, d_model) arrays
        The arrays, all of one floating-point type and width, in any byte order.
    names : sequence of str
        What each is called in messages.
    header : mapping of str to str
        Where they come from.

    Raises
    ------
    InputError
        If an array has another shape or type, which the text names, or there is no row.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sae_torch.activations.rows import ArrayRows
    >>> ArrayRows((np.eye(2), np.zeros((3, 2)))).gather(torch.tensor([4, 1]))
    tensor([[0., 0.],
            [0., 1.]])
    """

    arrays: Sequence[NDArray[Any]]
    names: Sequence[str] = ()
    header: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, array in enumerate(self.arrays):
            name = self.names[index] if self.names else f"array {index}"
            if array.ndim != 2 or array.dtype.newbyteorder("=") not in _READABLE:
                raise InputError(
                    f"{name}: expected floating-point rows (tokens, d_model) of 16, 32 or 64 bits, found "
                    f"{array.dtype} of shape {array.shape}"
                )
            first = self.arrays[0]
            if (array.dtype.newbyteorder("="), array.shape[1]) != (first.dtype.newbyteorder("="), first.shape[1]):
                raise InputError(
                    f"{name}: expected {first.dtype} of width {first.shape[1]} like "
                    f"{self.names[0] if self.names else 'array 0'}, found {array.dtype} of width {array.shape[1]}"
                )
        if not len(self):
            raise InputError(f"{', '.join(self.names) or 'arrays'}: expected at least one row, found none")

    def __len__(self) -> int:
        return sum(array.shape[0] for array in self.arrays)

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return int(self.arrays[0].shape[1])

    def gather(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows by index, ``(len(rows), d_model)`` of type `dtype`, in the order of `rows`.

        Raises
        ------
        IndexError
            If an index is out of range.
        """
        out = torch.empty(len(rows), self.d_model, dtype=dtype)
        for owner, where, local in located(rows, [array.shape[0] for array in self.arrays]):
            read = self.arrays[owner][local.numpy()]
            # torch knows the machine's own byte order only
            out[where] = torch.from_numpy(read.astype(read.dtype.newbyteorder("="), copy=False)).to(dtype)
        return out


def located(rows: Tensor, sizes: Sequence[int]) -> list[tuple[int, Tensor, Tensor]]:
    """For each part that is touched: its index, which of `rows` lie in it, and their local indices.

    Parameters
    ----------
    rows : (rows,) int64
        Indices over all parts after one another.
    sizes : sequence of int
        Rows of each part.

    Returns
    -------
    list of (int, (rows,) int64, (rows,) int64)

    Raises
    ------
    IndexError
        If an index is out of range.
    """
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= sum(sizes)):
        raise IndexError(f"rows: expected 0 to {sum(sizes) - 1}, found {int(rows.min())} to {int(rows.max())}")
    stops = torch.tensor(sizes).cumsum(0)
    owners = torch.searchsorted(stops, rows, right=True)
    parts = []
    for owner in torch.unique(owners).tolist():
        where = (owners == owner).nonzero().squeeze(1)
        parts.append((owner, where, rows[where] - (int(stops[owner]) - sizes[owner])))
    return parts
