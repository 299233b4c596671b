"""The block of one rank: its entries from a price upwards, and the best of each of its lines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Array, Indices
from allocation.problem import Problem
from allocation.scores import Scores
from allocation.solvers.ranked.layout import Layout
from allocation.solvers.ranked.line_cuts import in_line_order, places_in_lines
from allocation.solvers.top_selection.lines import select_columns, select_rows
from allocation.solvers.top_selection.ranking import Selection, finish
from allocation.solvers.top_selection.solver import HINT_SLACK
from allocation.solvers.top_selection.whole import bracket_of_sample, compact, sample_of, smallest_positive
from allocation.threads import rows_per_block

T = TypeVar("T", bound=np.generic)

# Entries sampled from all blocks together: 64 KiB of 64 bits.
SAMPLE = 1 << 13


@dataclass(frozen=True, eq=False)
class RankBlock:
    """The scores of one rank, whose ids are positions within it."""

    scores: Scores
    layout: Layout
    workers: int | None

    def size_of_lines(self, axis: int) -> tuple[int, int]:
        """How many tokens (axis 0) or features (1) it has, and where they begin in the whole."""
        return self.scores.shape[axis], self.layout.first[axis]

    def of_lines(self, axis: int, whole: NDArray[T]) -> NDArray[T]:
        """The part of a vector over all tokens or features that is about its own."""
        size, first = self.size_of_lines(axis)
        return whole[first : first + size]

    def numbers_at(self, ids: Indices) -> Array:
        """Scores of entries, in a type that compares as they do."""
        return self.scores.values_at(ids)

    def positive_from(self, lower: Any) -> Indices:
        """Ids of the entries from a positive one upwards, or of each feature from one of its own, ascending."""
        dense = self.scores.dense
        if dense is None:
            return np.flatnonzero(self.scores.entries >= lower)
        return compact(dense.ordered if np.ndim(lower) else dense.entries, lower, self.workers)

    def lowest(self) -> Any:
        """The least positive entry there can be."""
        return smallest_positive(self.scores.entries.dtype)

    def expected_price(self, price: float) -> Any:
        """An entry a little below the expected price of a budget."""
        dense = self.scores.dense
        if dense is None or not price > 0:
            return self.lowest()
        return dense.encoded(np.array([price * (1 - HINT_SLACK[None])]))[0]

    def sampled_price(self, budget: int) -> Any:
        """An entry that very likely lies below the price of a budget, from a sample of all blocks."""
        entries, total = self.scores.entries, self.layout.edges
        if total <= SAMPLE:
            return self.lowest()
        sample = np.concatenate(self.layout.ranks.gather(sample_of(entries, math.ceil(SAMPLE * entries.size / total))))
        return bracket_of_sample(sample, budget, total)[0]

    def best(self, axis: int, caps: Indices, hint: Array | None = None) -> Selection:
        """The best positive entries of every line, as many as its cap; `hint` is just below the expected prices."""
        dense = self.scores.dense
        if dense is None:
            positive = self.positive_from(self.lowest())
            lines = self.scores.ends(positive)[axis]
            return finish(self.scores.entries[positive], positive, lines, caps)
        select = select_columns if axis else select_rows
        return select(dense.ordered, np.minimum(caps, dense.shape[1 - axis]), self.workers, hint)

    def in_line_order(self, axis: int, ids: Indices) -> tuple[Indices, Indices]:
        """These entries line by line, the best first; and their lines."""
        lines = self.scores.ends(ids)[axis]
        order = in_line_order(lines, self.numbers_at(ids))
        return ids[order], lines[order]

    def best_of_lines(self, axis: int, lines: Indices, caps: Indices) -> tuple[Indices, Indices]:
        """The best allowed entries of some lines, of 0 or less too, in line order; `caps` are those of all lines."""
        dense = self.scores.dense
        if dense is None:
            ids = np.flatnonzero(np.isin(self.scores.ends(np.arange(self.scores.n_edges))[axis], lines))
        else:
            parts = [np.empty(0, np.int64)]
            step = rows_per_block(dense.shape[1 - axis])
            for some in (lines[start : start + step] for start in range(0, lines.size, step)):
                line, across = _reaching(dense.lines(axis, some), caps[some], dense.is_integer)
                parts.append(dense.find(*((some[line], across) if axis == 0 else (across, some[line]))))
            ids = np.sort(np.concatenate(parts))
        ids, of = self.in_line_order(axis, ids)
        few = places_in_lines(of, caps.size) < caps[of]
        return ids[few], of[few]


def _reaching(block: Array, wanted: Indices, is_integer: bool) -> tuple[Indices, Indices]:
    """Row and column of the entries that reach the `wanted[i]`-th of their row, all equals of it among them."""
    if block.shape[1] == 0 or not wanted.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    ranks = block.shape[1] - np.clip(wanted, 1, block.shape[1])
    ends = np.array([np.partition(row, rank)[rank] for row, rank in zip(block, ranks, strict=True)], block.dtype)
    reached = (block >= ends[:, None]) & (wanted > 0)[:, None]
    row, column = np.nonzero(reached if is_integer else reached & (block > -np.inf))
    return row, column


def limited_axis(problem: Problem) -> int | None:
    """The side with caps or floors; None where there is only a budget."""
    for axis, limits in enumerate(
        ((problem.token_caps, problem.token_floors), (problem.feature_caps, problem.feature_floors))
    ):
        if any(limit is not None for limit in limits):
            return axis
    return None
