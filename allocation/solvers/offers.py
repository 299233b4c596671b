"""What each line offers to a tree: its entries from a lower end upwards, and more only where prices ask for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from allocation.problem import Problem
from allocation.scores import EdgeScores, Indices
from allocation.solvers.lines import column_bracket, row_bracket
from allocation.solvers.price_search import Array, joined, sampled_bracket, smallest_positive
from allocation.solvers.tree import UNLIMITED, Mask, Reals, Tree
from allocation.threads import map_blocks

# A line of which more than this share would be offered is offered whole.
WHOLE_LINE = 0.25
# After so many rounds every line is offered whole, so that the search ends.
ROUNDS = 40


class Offers:
    """Candidates of a one-sided problem.

    A line that may hold k matches offers the k + 1 best of its entries or a few more, so the price of the line is
    known. A line without a cap offers what lies above a guess at the common price. Entries of score 0 or less are
    offered only where floors may force them.
    """

    def __init__(self, problem: Problem, axis: int, tree: Tree, workers: int | None) -> None:
        self.axis, self.tree, self.workers, self.passes = axis, tree, workers, 0
        self.matrix = problem.matrix
        self.lines, self.size = problem.shape[axis], problem.shape[1 - axis]
        self.counts = np.zeros(self.lines, np.int64)
        self.useful = self._useful()
        if isinstance(self.matrix, EdgeScores):
            self.lower = np.zeros(0)
            return
        self.entries: Array = self.matrix.widened(self.matrix.array)
        kind = self.entries.dtype
        self.lowest: Any = np.finfo(kind).min if kind.kind == "f" else np.iinfo(kind).min
        self.lower = np.full(self.lines, smallest_positive(kind))
        if self.entries.size:
            self._first_bracket(problem.budget)

    def _useful(self) -> Indices:
        """Most matches of each line: the least cap on its way to the root."""
        least = np.full(self.lines, UNLIMITED)
        for level in self.tree.ancestors:
            least = np.where(level >= 0, np.minimum(least, self.tree.caps[level]), least)
        return np.asarray(np.minimum(least, self.size))

    def _first_bracket(self, budget: int | None) -> None:
        few = self.useful + 1 <= WHOLE_LINE * self.size
        if few.any():
            bracket = self._bracket(np.where(few, self.useful + 1, 1))
            self.lower = np.where(few, np.maximum(bracket, self.lower), self.lower)
        if not few.all() and budget is not None:
            guess, _, _ = sampled_bracket(self.entries.reshape(-1), min(2 * budget, self.entries.size - 1))
            self.lower = np.where(few, self.lower, guess)
        floors = np.minimum(self.tree.floors[: self.lines], self.size)
        if np.any(floors > 0):
            forced = self._bracket(np.maximum(floors, 1))
            self.lower = np.where(floors > 0, np.minimum(self.lower, forced), self.lower)
        self.lower = np.maximum(self.lower, self.lowest)

    def _bracket(self, wanted: Indices, lines: Indices | None = None) -> Array:
        """A value that at least `wanted` entries of each line reach."""
        entries = self.entries
        if lines is not None:
            entries = entries[lines] if self.axis == 0 else entries[:, lines]
        self.passes += 1
        if self.axis == 1:
            return column_bracket(entries, wanted, self.workers)
        parts = map_blocks(
            lambda a, b: row_bracket(entries[a:b], wanted[a:b]), entries.shape[0], entries.nbytes, self.workers
        )
        return np.concatenate(parts)

    def ranked(self) -> tuple[Indices, Indices, Array]:
        """Flat positions, lines and scores of all offers: larger scores first, then smaller positions."""
        if isinstance(self.matrix, EdgeScores):
            flat, ends, scores = (
                np.arange(self.matrix.n_edges),
                (self.matrix.tokens, self.matrix.features),
                self.matrix.array,
            )
        else:
            flat = self._offered()
            scores = self.entries.reshape(-1)[flat]
            ends = np.divmod(flat, max(self.entries.shape[1], 1))
        # the reverse of a stable ascending order of the reverse: descending, ties by position
        order = flat.size - 1 - np.argsort(scores[::-1], kind="stable")[::-1]
        lines = ends[self.axis][order]
        self.counts = np.bincount(lines, minlength=self.lines)
        return flat[order], lines, scores[order]

    def _offered(self) -> Indices:
        columns = self.entries.shape[1]

        def offered(start: int, stop: int) -> Indices:
            at = self.lower[start:stop, None] if self.axis == 0 else self.lower
            return np.asarray(start * columns + np.flatnonzero(self.entries[start:stop] >= at))

        self.passes += 1
        return joined(map_blocks(offered, self.entries.shape[0] if columns else 0, self.entries.nbytes, self.workers))

    def widen(self, lines: Mask) -> bool:
        """Offer about twice as much of `lines`; False if all that could help is offered already."""
        if isinstance(self.matrix, EdgeScores) or not self.entries.size:
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

    def priced(self, thresholds: Reals) -> bool:
        """Whether no entry that was left out can score above its line's threshold; else such lines offer more."""
        if isinstance(self.matrix, EdgeScores) or not self.entries.size:
            return True
        # below the least positive number lie 0 and less
        end = np.where(self.lower == smallest_positive(self.entries.dtype), 0.0, self.lower.astype(np.float64))
        doubtful = np.flatnonzero((end > thresholds) & (self.lower > self.lowest))
        if doubtful.size == 0:
            return True
        at = np.maximum(thresholds[doubtful], float(self.lowest))
        if self.passes > ROUNDS:
            at[:] = float(self.lowest)
        entries = np.floor(at) if self.entries.dtype.kind != "f" else at
        lower = entries.astype(self.entries.dtype)
        if self.entries.dtype.kind == "f":
            lower = np.maximum(np.nextafter(lower, -np.inf, dtype=lower.dtype), self.lowest)
        self.lower[doubtful] = np.where(lower < self.lower[doubtful], lower, self.lowest)
        return False
