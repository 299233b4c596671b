"""How the ranks' blocks make up the whole matrix: a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from allocation.agreement import Blocks, agreed_blocks
from allocation.arrays import Array, Indices, Mask
from allocation.errors import InvalidProblemError
from allocation.problem import Problem
from allocation.ranks import Ranks

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Layout(Blocks):
    """The ranks and the grid of their blocks."""

    @cached_property
    def filled(self) -> Mask:
        """Which ranks have entries, or could have: tokens and features."""
        return np.asarray((self.sizes > 0).all(axis=1))

    @cached_property
    def places(self) -> Indices:
        """Where in the grid each rank's tokens and features are; -1 of a side on which it has none."""
        places = np.full(self.firsts.shape, -1)
        for side in (0, 1):
            firsts = np.unique(self.firsts[self.filled, side])
            own = np.flatnonzero((self.sizes[:, side] > 0) & np.isin(self.firsts[:, side], firsts))
            places[own, side] = np.searchsorted(firsts, self.firsts[own, side])
        return places

    @property
    def first(self) -> tuple[int, int]:
        """First token and feature of this rank's block."""
        token, feature = self.firsts[self.ranks.index]
        return int(token), int(feature)

    def is_cut(self, axis: int) -> bool:
        """Whether several ranks hold the same tokens (axis 0) or features (1)."""
        places = self.places[:, axis]
        return bool(np.bincount(places[places >= 0]).max(initial=0) > 1)

    def same_lines(self, axis: int) -> Indices:
        """The ranks that hold the same tokens (axis 0) or features (1) as this one, in the order of their entries."""
        own = self.places[self.ranks.index, axis]
        same = np.flatnonzero(self.places[:, axis] == own) if own >= 0 else np.array([self.ranks.index])
        return same[np.argsort(self.places[same, 1 - axis], kind="stable")]


def agreed(ranks: Ranks, checked: Callable[[], tuple[Problem, dict[str, str], T]]) -> tuple[Layout, Problem, T]:
    """The grid of all blocks and what `agreed_blocks` returns; else an error on every rank."""
    blocks, problem, rest = agreed_blocks(ranks, checked)
    layout = Layout(**vars(blocks))
    _refuse_gaps(layout)
    return layout, problem, rest


def _refuse_gaps(layout: Layout) -> None:
    """The blocks must be those of a grid, each once."""
    filled = layout.filled
    missing = "part: expected blocks that make up the whole matrix, as a grid does, each on one rank, found that "
    if not filled.any():
        if min(layout.whole) > 0:
            raise InvalidProblemError(f"{missing}all are empty")
        _refuse_lines_of_none(layout, missing)
        return
    for side, name in enumerate(("token", "feature")):
        firsts, at = np.unique(layout.firsts[filled, side], return_index=True)
        sizes = layout.sizes[filled, side]
        for first, size in zip(firsts, sizes[at], strict=True):
            if (sizes[layout.firsts[filled, side] == first] != size).any():
                raise InvalidProblemError(f"{missing}blocks of different sizes begin at {name} {first}")
        ends = np.concatenate([[0], firsts + sizes[at]])
        starts = np.concatenate([firsts, [layout.whole[side]]])
        wrong = np.flatnonzero(ends != starts)
        here = layout.places[:, side]
        off_grid = np.flatnonzero(
            (layout.sizes[:, side] > 0) & ((here < 0) | (sizes[at][here] != layout.sizes[:, side]))
        )
        if off_grid.size:
            raise InvalidProblemError(f"{missing}the empty block of rank {off_grid[0]} has {name}s of no other")
        if wrong.size:
            end, start = ends[wrong[0]], starts[wrong[0]]
            none = f"{name} {end} is" if start == end + 1 else f"{name}s {end} to {start - 1} are"
            what = f"{none} in none" if start > end else f"{name} {start} is in two"
            raise InvalidProblemError(f"{missing}{what}")
    places = layout.places[filled]
    counts = np.bincount(places[:, 0] * (places[:, 1].max() + 1) + places[:, 1])
    full = (places[:, 0].max() + 1) * (places[:, 1].max() + 1)
    if counts.max() > 1 or counts.size < full or counts.min() == 0:
        raise InvalidProblemError(f"{missing}{'a block is on two ranks' if counts.max() > 1 else 'a block is missing'}")


def _refuse_lines_of_none(layout: Layout, missing: str) -> None:
    """Without any pair, each token or feature has to be on some rank all the same: it may have a floor."""
    for side, name in enumerate(("token", "feature")):
        reached = 0
        for at in np.argsort(layout.firsts[:, side], kind="stable"):
            first, size = layout.firsts[at, side], layout.sizes[at, side]
            reached = max(reached, int(first + size)) if first <= reached else reached
        if reached < layout.whole[side]:
            raise InvalidProblemError(f"{missing}{name} {reached} is in none")


def gathered(layout: Layout, values: Array, among: Indices) -> list[Array]:
    """The vectors of some ranks, in the order given."""
    parts = layout.ranks.gather(values)
    return [parts[rank] for rank in among]
