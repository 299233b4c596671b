"""What each line offers to a tree: its entries from a lower end upwards, and more only where prices ask for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from allocation.arrays import Array, Indices, Mask, Reals
from allocation.problem import Problem
from allocation.solvers.laminar.tree import UNLIMITED, Tree
from allocation.solvers.top_selection.lines import column_bracket, columns_of, row_bracket
from allocation.solvers.top_selection.whole import joined, sampled_bracket, smallest_positive
from allocation.solvers.work_limit import WorkLimit
from allocation.threads import map_blocks

# A line of which more than this share would be offered is offered whole.
WHOLE_LINE = 0.25
# So many positions fit beside a value of 32 bits in one integer.
PACKED = 1 << 31
# After so many rounds every line is offered whole, so that the search ends.
ROUNDS = 40


class Offers:
    """Candidates of a one-sided problem.

    Lines offer what lies above a guess at the budget's price. Where prices do not justify the guess, a line that may
    hold k matches offers its k + 1 best and a few more, so that its own price is known. Entries of score 0 or less are
    offered only where floors may force them.
    """

    def __init__(self, problem: Problem, axis: int, tree: Tree, workers: int | None, work_limit: WorkLimit) -> None:
        self.work_limit = work_limit
        self.axis, self.tree, self.workers, self.passes = axis, tree, workers, 0
        self.matrix = problem.matrix
        self.lines, self.size = problem.shape[axis], problem.shape[1 - axis]
        self.counts = np.zeros(self.lines, np.int64)
        self.useful = self._useful()
        self.bracketed = np.zeros(self.lines, bool)
        self.entries: Array = self.matrix.numbers
        self.whole = self.matrix.dense is None or not self.entries.size
        if self.whole:
            return
        kind = self.entries.dtype
        self.lowest: Any = np.finfo(kind).min if kind.kind == "f" else np.iinfo(kind).min
        self.lower = np.full(self.lines, smallest_positive(kind))
        self._first_bracket(problem.budget)

    def _useful(self) -> Indices:
        """Most matches of each line: the least cap on its way to the root, or a floor that is wrongly above it.

        Whoever is told that a floor cannot be met has to be told why.
        """
        least, demanded = np.full(self.lines, UNLIMITED), np.zeros(self.lines, np.int64)
        for level in self.tree.ancestors:
            least = np.where(level >= 0, np.minimum(least, self.tree.caps[level]), least)
            demanded = np.where(level >= 0, np.maximum(demanded, self.tree.floors[level]), demanded)
        return np.asarray(np.minimum(np.maximum(least, demanded), self.size))

    def _first_bracket(self, budget: int | None) -> None:
        """A guess at the budget's price for all lines; without a budget the bracket of every capped line."""
        if budget is not None:
            guess, _, _ = sampled_bracket(self.entries.reshape(-1), min(budget + budget // 8, self.entries.size - 1))
            self.lower = np.maximum(self.lower, guess)
        else:
            self._bracket_capped(np.arange(self.lines))

    def _bracket_capped(self, lines: Indices) -> Indices:
        """Bracket those of `lines` that may hold few matches, once and for all; the others are returned."""
        few = (self.useful[lines] + 1 <= WHOLE_LINE * self.size) & ~self.bracketed[lines]
        if few.any():
            chosen = lines[few]
            everything = chosen.size == self.lines
            bracket = self._bracket(self.useful[chosen] + 1, None if everything else chosen)
            self.lower[chosen] = np.maximum(bracket, smallest_positive(self.entries.dtype))
            self.bracketed[chosen] = True
        return lines[~few]

    def _bracket(self, wanted: Indices, lines: Indices | None = None) -> Array:
        """A value that at least `wanted` entries of each line reach."""
        entries = self.entries
        if lines is not None:
            entries = entries[lines] if self.axis == 0 else columns_of(entries, lines, self.workers)
        self.passes += 1
        if self.axis == 1:
            return column_bracket(entries, wanted, self.workers)

        def of_rows(start: int, stop: int) -> Array:
            self.work_limit.check()
            return row_bracket(entries[start:stop], wanted[start:stop])

        return np.concatenate(map_blocks(of_rows, entries.shape[0], entries.nbytes, self.workers))

    def ranked(self) -> tuple[Indices, Indices, Array]:
        """Flat positions, lines and scores of all offers: larger scores first, then smaller positions."""
        flat = np.arange(self.entries.size) if self.whole else self._offered()
        scores = self.entries.reshape(-1)[flat]
        order = _descending(scores)
        lines = self.matrix.ends(flat)[self.axis][order]
        self.counts = np.bincount(lines, minlength=self.lines)
        return flat[order], lines, scores[order]

    def _offered(self) -> Indices:
        columns = self.entries.shape[1]

        def offered(start: int, stop: int) -> Indices:
            self.work_limit.check()
            at = self.lower[start:stop, None] if self.axis == 0 else self.lower
            return np.asarray(start * columns + np.flatnonzero(self.entries[start:stop] >= at))

        self.passes += 1
        return joined(map_blocks(offered, self.entries.shape[0] if columns else 0, self.entries.nbytes, self.workers))

    def widen(self, lines: Mask) -> bool:
        """Offer about twice as much of `lines`; False if all that could help is offered already."""
        if self.whole:
            return False
        more = np.flatnonzero(lines & (self.lower > self.lowest) & (self.counts < self.useful))
        if more.size == 0:
            return False
        wanted = np.minimum(2 * self.counts[more] + 16, self.useful[more])
        lower = np.full(more.size, self.lowest)
        some = wanted <= WHOLE_LINE * self.size
        if some.any():
            lower[some] = np.maximum(self._bracket(wanted[some], more[some]), self.lowest)
        # where a bracket brings nothing new, ties at the old end included, the whole line is offered
        self.lower[more] = np.where(lower < self.lower[more], lower, self.lowest)
        return True

    def priced(self, thresholds: Reals, tied: Mask) -> bool:
        """Whether no entry that was left out can score above its line's threshold; else such lines offer more.

        In `tied` lines nor may it score exactly 0: those are ties with a match of score 0 that a floor forces.
        """
        if self.whole:
            return True
        # below the least positive number lie 0 and less
        only_positive = self.lower == smallest_positive(self.entries.dtype)
        end = np.where(only_positive, 0.0, self.lower.astype(np.float64))
        ties = only_positive & tied & (thresholds == 0)
        doubtful = np.flatnonzero(((end > thresholds) | ties) & (self.lower > self.lowest))
        if doubtful.size == 0:
            return True
        doubtful = self._bracket_capped(doubtful)
        at = np.maximum(thresholds[doubtful], float(self.lowest))
        if self.passes > ROUNDS:
            at[:] = float(self.lowest)
        kind = self.entries.dtype
        lower = (np.floor(at) if kind.kind != "f" else at).astype(kind)
        if kind.kind == "f":
            lower = np.maximum(np.nextafter(lower, -np.inf, dtype=kind), self.lowest)
        self.lower[doubtful] = np.where(lower < self.lower[doubtful], lower, self.lowest)
        return False


def _descending(scores: Array) -> Indices:
    """The order that sorts scores downwards, ties by position."""
    if scores.dtype.itemsize == 8 or scores.size > PACKED:  # the reverse of a stable ascending order of the reverse
        return np.asarray(scores.size - 1 - np.argsort(scores[::-1], kind="stable")[::-1])
    if scores.dtype.kind == "f":
        bits = (scores + 0).astype(np.float32, copy=False).view(np.int32)  # adding 0 makes -0.0 equal 0.0
        ascending = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    else:
        ascending = scores.astype(np.int64) - (2**31 if scores.dtype.kind == "u" else 0)
    # value and position in one integer: sorting those is faster than sorting positions by value
    packed = np.sort(((2**31 - 1 - ascending) << 31) | np.arange(scores.size))
    return np.asarray(packed & (2**31 - 1))
