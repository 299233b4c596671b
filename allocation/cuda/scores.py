"""Score matrices on a CUDA device, and the engines that select there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from allocation.arrays import Array, Indices, Reals
from allocation.scores import DenseScores
from allocation.threads import rows_per_block

T = TypeVar("T")
# Entries of a block in a pass on a device: a few arrays of this size in float64 exist at once.
DEVICE_ENTRIES = 1 << 25


@dataclass(frozen=True, eq=False)
class FixedTop:
    """What `select_fixed` returns: the best entries of every group, on the device, padded to sizes known beforehand.

    A group is the whole matrix under a budget, a token under token caps, a feature under feature caps.

    Attributes
    ----------
    positions : (most,) int64
        ``token * features + feature`` of each match, ascending, with room for the most that the caps allow; 0 past the
        first `count`.
    count : (1,) int64
        How many matches there are.
    last : (groups,) float64
        The last score taken of each group, +inf where none is.
    refused : (groups,) float64
        The best score refused, 0 where none is positive: the price of a group that reaches its cap.
        With limits of one side beside a budget both are of what no floor forces and the caps leave to the budget.
    line_prices : (tokens,) or (features,) float64, optional
        With a budget and limits of one side: the price of each line's own floor and cap beside that of the budget.
    warm_start : float64
        Where a selection from similar scores may start.
    reaching : (groups,) int64, optional
        How many entries reached where this one started, or more than it had room for; None by torch alone.

    Examples
    --------
    >>> import allocation as al, torch
    >>> top = al.select_fixed(torch.tensor([[3.0, 1.0, 2.0]], device="cuda"), budget=2)  # doctest: +SKIP
    >>> top.positions, top.count, top.refused  # doctest: +SKIP
    (tensor([0, 2], device='cuda:0'), tensor([2], device='cuda:0'), tensor([1.], device='cuda:0', dtype=torch.float64))
    """

    positions: Any
    count: Any
    last: Any
    refused: Any
    line_prices: Any = None
    reaching: Any = None
    _offered: Any = None

    @property
    def warm_start(self) -> Any:
        """Where a selection from similar scores may start."""
        return self.refused if self._offered is None else self._offered


class Engine(Protocol):
    """All that is asked of a device: where arrays are, what computes on them, and the selections, inside its scope."""

    @property
    def name(self) -> str:
        """What the statistics of a solution call it."""

    @property
    def namespace(self) -> Any:
        """The library whose functions compute on these arrays."""

    def scope(self) -> AbstractContextManager[None]:
        """Makes the device and its stream current."""

    def wait(self) -> None:
        """Until what was computed can be read on any stream."""

    def padded_top(
        self,
        scores: DeviceScores,
        axis: int | None,
        caps: Indices,
        only_positive: bool = True,
        expected: Any = None,
    ) -> FixedTop:
        """The best entries, positive or merely allowed, of the whole matrix (None), every row (0) or column (1).

        `expected` are float64 on the device, a little below what each group is expected to refuse: they change the
        time, never the answer. `allocation.select_fixed` is this for callers, `DeviceScores.top` for solvers.
        """

    def inspect(self, scores: DeviceScores) -> Indices:
        """Number of NaN entries and position of the first, number of +inf entries and position of the first."""

    def put(self, array: Array) -> Any:
        """A NumPy array on the device."""

    def get(self, array: Any) -> Array:
        """A device array in NumPy."""

    def returned(self, array: Any) -> Any:
        """An array as callers of `allocation.solve` get it."""


@dataclass(frozen=True, eq=False)
class DeviceScores(DenseScores):
    """A `(tokens, features)` matrix on a CUDA device: a CuPy array or a tensor. What computes is inside the scope."""

    engine: Engine

    @property
    def n_edges(self) -> int:
        """Entries of the matrix, forbidden ones included."""
        return self.shape[0] * self.shape[1]

    @property
    def on_device(self) -> bool:
        """It is."""
        return True

    @property
    def not_in_parts(self) -> str | None:
        """Why processes cannot hold such scores in parts: not yet."""
        return "`ranks=` takes scores in main memory: copy them there"

    @property
    def namespace(self) -> Any:
        """The library whose functions compute where the scores are."""
        return self.engine.namespace

    def put(self, array: Array) -> Any:
        """A NumPy array where the scores are."""
        return self.engine.put(array)

    def get(self, array: Any) -> Array:
        """What was computed where the scores are, in NumPy."""
        return self.engine.get(array)

    def scope(self) -> AbstractContextManager[None]:
        """Makes current where the scores are."""
        return self.engine.scope()

    def returned(self, parts: tuple[Any, ...]) -> tuple[Any, ...]:
        """Matches as callers of `allocation.solve` get them: on the device, and readable on any stream."""
        arrays = tuple(self.engine.returned(self.put(p) if isinstance(p, np.ndarray) else p) for p in parts)
        self.engine.wait()
        return arrays

    def widened(self, block: Any) -> Any:
        """16-bit floats as float32, unsigned integers of tensors as int64: what every library compares."""
        if hasattr(block, "detach"):
            return block.float() if self.type in ("float16", "bfloat16") else _signed(block)
        return super().widened(block)

    def values_at(self, flat: Any) -> Any:
        """Scores at flat positions, in the scores' own type (float32 for bfloat16)."""
        xp = self.namespace
        values = xp.take(xp.reshape(self.array, (-1,)), flat, axis=0)
        return self.widened(values) if self.type == "bfloat16" else values

    def at(self, flat: Any, keep: Any = None) -> DeviceScores:
        """The entries at flat positions, as a matrix of one row; 0 where `keep` is False."""
        xp = self.namespace
        entries = xp.reshape(self.array, (-1,))
        if hasattr(entries, "detach"):
            entries = _signed(entries)
        row = xp.take(entries, flat, axis=0)
        if keep is not None:
            row = xp.where(keep, row, xp.zeros_like(row))
        return DeviceScores(row[None, :], self.type, self.engine)

    def lines(self, side: int, lines: Indices) -> Any:
        """Some tokens (side 0) or features (side 1) as the rows of a block of numbers."""
        block = self.namespace.take(self.array, self.put(lines), axis=side)
        return self.widened(block if side == 0 else block.T)

    def part(self, tokens: Indices) -> DenseScores:
        """The scores of some tokens, in main memory."""
        return DenseScores(self.get(self.namespace.take(self.array, self.put(tokens), axis=0)), self.type)

    def in_blocks(self, work: Callable[[int, int], T], workers: int | None, block_bytes: int) -> list[T]:
        """`[work(start, stop), ...]` over blocks of rows as large as a device likes them, whatever a core does."""
        rows, columns = self.shape
        step = rows_per_block(columns, DEVICE_ENTRIES)
        return [work(start, min(start + step, rows)) for start in range(0, rows if columns else 0, step)]

    def top(
        self, axis: int | None, caps: Indices, only_positive: bool = True, expected: Reals | None = None
    ) -> tuple[Any, Reals, Reals]:
        """The best entries of the whole matrix (None), of every row (0) or column (1); the host waits for the count.

        Their positions, exactly as many as there are, on the device; per group the last score taken and the best one
        refused, in NumPy.
        """
        start = None if expected is None else self.put(expected)
        top = self.engine.padded_top(self, axis, caps, only_positive, start)
        flat = top.positions[: int(self.get(top.count)[0])]
        return flat, self.get(top.last), self.get(top.refused)

    def on_host(self) -> DenseScores:
        """A copy in main memory."""
        with self.scope():
            return DenseScores(self.get(self.array), self.type)


def _signed(block: Any) -> Any:
    """Torch compares and ranks no unsigned integers but bytes."""
    import torch

    return block.to(torch.int64) if block.dtype in (torch.uint16, torch.uint32) else block
