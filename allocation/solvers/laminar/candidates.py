"""What each line offers to a tree: its entries from a lower end upwards, and more only where prices ask for it."""

from __future__ import annotations

from typing import Any, overload

import numpy as np

from allocation.arrays import Array, Indices, Mask, Reals
from allocation.problem import Problem
from allocation.solvers.laminar.tree import UNLIMITED, Tree
from allocation.solvers.top_selection.lines import column_bracket, columns_of, row_bracket
from allocation.solvers.top_selection.whole import SAMPLE, compact, sampled_bracket, smallest_positive
from allocation.solvers.work_limit import WorkLimit
from allocation.threads import map_blocks

# A line of which more than this share would be offered is offered whole.
WHOLE_LINE = 0.25
# With more than so many times the budget, an expected price was far too low.
MOST = 3
# After so many rounds every line is offered whole, so that the search ends.
ROUNDS = 40


class Offers:
    """Candidates of a one-sided problem.

    Lines offer what lies above a guess at the budget's price. Where prices do not justify the guess, a line that may
    hold k matches offers its k + 1 best and a few more, so that its own price is known. Entries of score 0 or less are
    offered only where floors may force them.

    `below` says what is a little less than an entry of each line had to exceed in a similar problem. What lies above is
    offered first, if that is enough for the budget and not far too much.
    """

    def __init__(
        self, problem: Problem, axis: int, tree: Tree, workers: int | None, work_limit: WorkLimit,
        below: Reals | None = None,
    ) -> None:  # fmt: skip
        self.work_limit = work_limit
        self.axis, self.tree, self.workers, self.passes = axis, tree, workers, 0
        self.matrix = problem.matrix
        self.lines, self.size = problem.shape[axis], problem.shape[1 - axis]
        self.counts = np.zeros(self.lines, np.int64)
        self.useful = self._useful()
        self.bracketed = np.zeros(self.lines, bool)
        self.entries: Array = self.matrix.numbers
        self.found: Indices | None = None  # what is offered, where a search has just told
        self.whole = self.matrix.dense is None or not self.entries.size
        if self.whole:
            return
        kind = self.entries.dtype
        ends = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
        self.lowest: Any = ends.min
        self.largest = float(ends.max) / 2
        self.lower = np.full(self.lines, smallest_positive(kind))
        if problem.budget is None:
            self._bracket_capped(np.arange(self.lines))
        else:
            self.found = self._with_floors(self._above_budget(problem.budget, below))

    def _useful(self) -> Indices:
        """Most matches of each line: the least cap on its way to the root, or a floor that is wrongly above it.

        Whoever is told that a floor cannot be met has to be told why.
        """
        least, demanded = np.full(self.lines, UNLIMITED), np.zeros(self.lines, np.int64)
        for level in self.tree.ancestors:
            least = np.where(level >= 0, np.minimum(least, self.tree.caps[level]), least)
            demanded = np.where(level >= 0, np.maximum(demanded, self.tree.floors[level]), demanded)
        return np.asarray(np.minimum(np.maximum(least, demanded), self.size))

    def _above_budget(self, budget: int, below: Reals | None) -> Indices:
        """Ascending positions of what lies above expected prices, or above one guess at the budget's price."""
        entries, least = self.entries.reshape(-1), self.lower[0]
        if below is not None:
            lower = np.clip(np.nan_to_num(below), 0, self.largest).astype(self.entries.dtype)
            self.lower = np.maximum(lower, least)
            found = self._offered(MOST * budget + SAMPLE)
            if found is not None and found.size > budget:
                return found
        guess, _, _ = sampled_bracket(entries, min(budget + budget // 8, entries.size - 1))
        self.lower = np.full(self.lines, max(guess, least))
        return self._offered()

    def _with_floors(self, flat: Indices) -> Indices:
        """The same, and of every line that has fewer of them than its floor as many of its best."""
        lines, floors = self.matrix.ends(flat)[self.axis], self.tree.floors[: self.lines]
        short = np.bincount(lines, minlength=self.lines) < floors
        if not short.any():
            return flat
        self.work_limit.check()
        chosen = np.flatnonzero(short)
        part = self._lines(chosen)
        lower = self.lower[chosen] = self._ends(chosen, np.minimum(floors[chosen], self.size), part)
        self.work_limit.check()
        row, column = np.nonzero(part >= (lower[:, None] if self.axis == 0 else lower))
        self.work_limit.check()
        added = chosen[row] * self.entries.shape[1] + column if self.axis == 0 else row * self.lines + chosen[column]
        others = flat.compress(~short[lines])
        return np.insert(others, np.searchsorted(others, added), added)

    def _bracket_capped(self, lines: Indices) -> Indices:
        """Bracket those of `lines` that may hold few matches, once and for all; the others are returned."""
        few = (self.useful[lines] + 1 <= WHOLE_LINE * self.size) & ~self.bracketed[lines]
        if few.any():
            chosen = lines[few]
            everything = chosen.size == self.lines
            bracket = self._bracket(self.entries if everything else self._lines(chosen), self.useful[chosen] + 1)
            self.lower[chosen] = np.maximum(bracket, smallest_positive(self.entries.dtype))
            self.bracketed[chosen] = True
        return lines[~few]

    def _lines(self, lines: Indices) -> Array:
        """The entries of some lines."""
        return self.entries[lines] if self.axis == 0 else columns_of(self.entries, lines, self.workers)

    def _ends(self, lines: Indices, wanted: Indices, part: Array | None = None) -> Array:
        """Where lines have to begin that shall offer so many; `part` are their entries, where they are at hand."""
        self.work_limit.check()
        lower = np.full(lines.size, self.lowest)
        some = wanted <= WHOLE_LINE * self.size
        if some.any():
            # gathered again for some of them: columns that a mask picks would lie one after the other
            entries = part if part is not None and some.all() else self._lines(lines[some])
            lower[some] = np.maximum(self._bracket(entries, wanted[some]), self.lowest)
        return lower

    def _bracket(self, entries: Array, wanted: Indices) -> Array:
        """A value that at least `wanted` entries of each line reach."""
        self.passes += 1
        if self.axis == 1:
            return column_bracket(entries, wanted, self.workers)

        def of_rows(start: int, stop: int) -> Array:
            self.work_limit.check()
            return row_bracket(entries[start:stop], wanted[start:stop])

        return np.concatenate(map_blocks(of_rows, entries.shape[0], entries.nbytes, self.workers))

    def everything(self) -> tuple[Indices, Indices, Array]:
        """Ascending flat positions of all offers, their lines and their scores."""
        flat, self.found = self.found, None
        if flat is None:
            flat = np.arange(self.entries.size) if self.whole else self._offered()
        lines = self.matrix.ends(flat)[self.axis]
        self.counts = np.bincount(lines, minlength=self.lines)
        return flat, lines, self.entries.reshape(-1)[flat]

    @overload
    def _offered(self) -> Indices: ...
    @overload
    def _offered(self, most: int) -> Indices | None: ...
    def _offered(self, most: int | None = None) -> Indices | None:
        """Ascending positions of what lies above the lower end of its line; None if that is more than `most`."""
        self.passes += 1
        lower = self.lower[:, None] if self.axis == 0 else self.lower
        return compact(self.entries, lower, self.workers, most=most, before=self.work_limit.check)

    def widen(self, lines: Mask) -> bool:
        """Offer about twice as much of `lines`; False if all that could help is offered already."""
        if self.whole:
            return False
        more = np.flatnonzero(lines & (self.lower > self.lowest) & (self.counts < self.useful))
        if more.size == 0:
            return False
        wanted = np.minimum(2 * self.counts[more] + 16, self.useful[more])
        lower = self._ends(more, wanted)
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
