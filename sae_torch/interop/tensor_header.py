"""A tensor without its values: shape and type, in the words of a tensor, so that one check takes either."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol


class Shaped(Protocol):
    """What tensors and their headers have in common."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length along every axis."""

    @property
    def ndim(self) -> int:
        """Number of axes."""

    @property
    def dtype(self) -> Any:
        """Type, whose text ends as torch calls it."""

    def numel(self) -> int:
        """How many numbers."""


@dataclass(frozen=True)
class TensorHeader:
    """A tensor without its values.

    Attributes
    ----------
    dtype : str
        As torch calls it, for instance ``bfloat16``.
    shape : tuple of int
    place : (str, int), optional
        Where a torch file has the values: the member of the archive, and the number of the first value in it.

    Examples
    --------
    >>> from sae_torch.interop.tensor_header import TensorHeader
    >>> TensorHeader("float32", (2, 3)).numel()
    6
    """

    dtype: str
    shape: tuple[int, ...]
    place: tuple[str, int] | None = field(default=None, compare=False, repr=False)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def numel(self) -> int:
        """How many numbers."""
        return prod(self.shape)
