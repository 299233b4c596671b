"""Exact selection of row blocks that never fit in memory together.

Of every group only the cap + 1 best entries seen so far can be in the answer or set its price. Later blocks are
compared with the worst of those: a rising bracket, so that one reading is enough.
"""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from allocation.agreement import no_edges, together
from allocation.arguments import shown
from allocation.arrays import Array, Indices
from allocation.errors import InvalidProblemError
from allocation.problem import Problem
from allocation.ranks import Part, Ranks, checked_ranks
from allocation.rough import Rough
from allocation.scores import DenseScores, EdgeScores
from allocation.solution import Solution, counts_of
from allocation.solvers.base import Options
from allocation.solvers.narrowing import contenders
from allocation.solvers.ranked.solver import solve_on_ranks
from allocation.solvers.top_selection.ranking import Ends
from allocation.solvers.top_selection.solver import TopSelection, prices_of_ends
from allocation.solvers.top_selection.survivors import Survivors
from allocation.solvers.top_selection.whole import compact, smallest_positive
from allocation.threads import rows_per_block
from allocation.validation import dense_scores

NO_BLOCKS = "there is no block to read"
# Survivors kept beyond the necessary ones before the surplus is dropped: 10 to 16 bytes each.
SURPLUS = 1 << 20
# One matrix that is given whole is read in blocks of about so many entries.
READ_ENTRIES = 1 << 22


def select_stream(
    chunks: Iterable[ArrayLike] | Callable[[], Iterable[ArrayLike]],
    budget: int | None = None,
    feature_caps: ArrayLike | None = None,
    ranks: Ranks | None = None,
) -> Solution:
    """The answer of `mutual_choice` or `feature_choice` on the row blocks stacked, bit for bit.

    ::

        maximise sum_ij S_ij A_ij   subject to   sum_ij A_ij <= budget   and   sum_i A_ij <= feature_caps_j

    One reading. Memory: one block, the answer, and less than 64 MiB.

    Parameters
    ----------
    chunks : re-iterable of (rows, features) arrays, function that returns one, or one matrix
        A list, a `torch.utils.data.DataLoader`, any object with ``__iter__`` that starts anew; a generator function; an
        array on disk such as ``np.load(path, mmap_mode="r")``, which is read in blocks of rows. All blocks must have
        one number of features and one dtype.
    budget : int, optional
        Most matches in all.
    feature_caps : int or (features,) integer vector, optional
        Most matches of each feature.
    ranks : Ranks, optional
        Processes that read one block after the other of what follows on what the rank before reads; limits count all.

    Returns
    -------
    Solution
        Tokens are counted through all blocks; with `ranks` through those of this rank, whose matches they are.

    Raises
    ------
    InvalidProblemError
        For a one-shot iterator, and for blocks that do not fit together; with `ranks` on all of them.
    RuntimeError
        With `ranks`, where another rank fails to read its blocks; the message names the rank and its error.

    Examples
    --------
    >>> import allocation as al, numpy as np
    >>> blocks = [np.array([[3.0, 1.0]]), np.array([[2.0, 5.0], [4.0, 0.0]])]
    >>> al.select_stream(blocks, budget=3).tokens
    array([0, 1, 2])
    """
    started = time.perf_counter()
    if ranks is not None:
        return _on_ranks(lambda: _read(chunks, budget, feature_caps), budget, feature_caps, checked_ranks(ranks))
    reading = _read(chunks, budget, feature_caps)
    if reading is None:
        empty = Problem(np.empty((0, _columns_of(feature_caps))), budget, feature_caps=feature_caps)
        solution = TopSelection().solve(empty, Options())
        return dataclasses.replace(solution, stats={"solver": "select_stream", "reason": NO_BLOCKS, **solution.stats})
    return reading.solution(started)


def _columns_of(feature_caps: Any) -> int:
    """How many features there are where no block says so."""
    return 0 if feature_caps is None else int(np.size(feature_caps))


def _read(chunks: Any, budget: Any, feature_caps: Any) -> _Reading | None:
    """What is left of all blocks; None if there is none."""
    if budget is None and feature_caps is None:
        raise InvalidProblemError("budget, feature_caps: expected at least one of them")
    reading: _Reading | None = None
    for number, chunk in enumerate(_blocks(chunks)):
        block = chunk if isinstance(chunk, Rough) else dense_scores(chunk, f"chunks[{number}]").on_host()
        if reading is None:
            reading = _Reading(block, budget, feature_caps)
        reading.add(block, number)
    return reading


def _on_ranks(read: Callable[[], _Reading | None], budget: Any, feature_caps: Any, ranks: Ranks) -> Solution:
    """The answer from what each rank read: the best entries of its own blocks are the candidates of all."""
    reading = together(ranks, read)
    own = (0, 0) if reading is None else (reading.rows, reading.columns)
    sizes = np.stack(ranks.gather(np.array(own, np.int64)))
    part = Part(tokens=(int(sizes[: ranks.index, 0].sum()), int(sizes[:, 0].sum())))

    def checked() -> tuple[Problem, TopSelection, Options]:
        if reading is None:
            edges = no_edges((0, int(sizes[:, 1].max()) or _columns_of(feature_caps)), "float32")
        else:
            edges = reading.candidates()
        return Problem(edges, budget, feature_caps=feature_caps, part=part), TopSelection(), Options()

    solution = solve_on_ranks(checked, ranks)
    return dataclasses.replace(solution, stats={**solution.stats, "solver": "select_stream", "passes": 1})


def _blocks(chunks: Any) -> Iterable[Any]:
    """Blocks of rows from whatever holds them."""
    if callable(chunks) and not isinstance(chunks, (Iterable, type)):
        try:
            inspect.signature(chunks).bind()
        except (TypeError, ValueError):
            raise InvalidProblemError("chunks: expected a function without arguments that returns the blocks") from None
        return _blocks_of(chunks())
    if isinstance(chunks, Iterator):
        raise InvalidProblemError(
            f"chunks: expected blocks that can be read again, found {type(chunks).__name__}, which can be read only "
            "once; pass a list, the function that makes it, or an object that starts anew"
        )
    return _blocks_of(chunks)


def _blocks_of(chunks: Any) -> Iterable[Any]:
    if isinstance(chunks, (str, bytes, dict, set)) or not isinstance(chunks, Iterable):
        raise InvalidProblemError(f"chunks: expected blocks of rows, found {shown(chunks)}")
    try:
        dimensions = getattr(chunks, "ndim", 3)
        blocks = iter(chunks) if dimensions == 3 else None
    except Exception as error:  # anything may call itself iterable
        reason = str(error).split("\n")[0]
        raise InvalidProblemError(f"chunks: expected blocks of rows, found {shown(chunks)}: {reason}") from error
    if blocks is not None:
        return blocks
    if dimensions == 2:
        return _split(chunks)
    raise InvalidProblemError(f"chunks: expected blocks of rows, found one {shown(chunks)}")


def _split(matrix: Any) -> Iterator[Any]:
    """Blocks of rows of one matrix, which may be any kind of array that is sliced like NumPy's."""
    rows, columns = matrix.shape
    try:
        matrix[:0]
    except Exception:  # a sparse tensor, for one
        raise InvalidProblemError(f"chunks: expected blocks of rows, found one {shown(matrix)}") from None
    step = rows_per_block(columns, READ_ENTRIES)
    return (matrix[start : start + step] for start in range(0, max(rows, 1), step))


class _Reading:
    """The survivors so far, and the value below which nothing can matter any more."""

    def __init__(self, first: DenseScores, budget: Any, feature_caps: Any) -> None:
        # of no rows: reads the limits, refuses wrong ones
        self.limits = Problem(np.empty((0, first.shape[1]), np.float32), budget=budget, feature_caps=feature_caps)
        self.rough = isinstance(first, Rough)
        kind = np.dtype(first.type) if isinstance(first, Rough) else first.array.dtype
        ordered = DenseScores(np.empty((0, 0), kind), first.type).ordered.dtype
        self.type, self.kind, self.columns = first.type, kind, first.shape[1]
        caps = np.array([self.limits.budget]) if self.limits.feature_caps is None else self.limits.feature_caps
        self.by_column = self.limits.feature_caps is not None
        self.wanted = np.minimum(caps, 1 << 62) + 1
        self.lower = np.full(self.wanted.size, smallest_positive(ordered))
        self.survivors = Survivors(self.columns, ordered)
        self.rows, self.room = 0, SURPLUS

    def add(self, block: DenseScores, number: int) -> None:
        """Keep what may still matter of the next block."""
        if isinstance(block, Rough) != self.rough:
            kinds = "rough ones", "scores"
            raise InvalidProblemError(
                f"chunks[{number}]: expected {kinds[not self.rough]}, as in the first, found {kinds[self.rough]}"
            )
        if block.shape[1] != self.columns or block.type != self.type:
            raise InvalidProblemError(
                f"chunks[{number}]: expected {self.columns} features of type {self.type}, as in the first, found "
                f"{block.shape[1]} of {block.type}"
            )
        if isinstance(block, Rough):
            lower = self._values(self.lower).astype(np.float64)
            flat, values = contenders(block, np.minimum(self.wanted, block.n_edges), self.by_column, lower)
            self._keep(flat, values.view(self.lower.dtype), block.shape[0])
        else:
            self._read(block.ordered)

    def _read(self, part: Any) -> None:
        """Survivors of some rows; where they are many, those of the first half raise the bracket for the second."""
        lower = self.lower if self.by_column else self.lower[0]
        flat = compact(part, lower, most=SURPLUS) if len(part) > 1 else compact(part, lower)
        if flat is None:
            for half in np.array_split(part, 2):
                self._read(half)
            return
        self._keep(flat, part.reshape(-1)[flat], len(part))

    def _keep(self, flat: Indices, entries: Array, rows: int) -> None:
        """Take up survivors of the next so many rows."""
        self.survivors.append(flat, entries, self.rows * self.columns)
        self.rows += rows
        if self.survivors.size > self.room:
            self._raise_bracket()

    def _raise_bracket(self) -> None:
        """Drop all but the wanted of every group; what a full one holds at worst is its new lower end."""
        last, _ = self.survivors.keep_best(self.wanted, self.by_column)
        self.lower = np.maximum(self.lower, last)
        self.room = self.survivors.size + SURPLUS

    def candidates(self) -> EdgeScores:
        """What may be in an answer or set a price, whatever else others read."""
        self.survivors.keep_best(self.wanted, self.by_column)
        tokens, features, entries = self.survivors.matches()
        return EdgeScores(tokens, features, self._values(entries), (self.rows, self.columns), self.type)

    def solution(self, started: float) -> Solution:
        """The answer, its prices and their intervals."""
        caps, budget = self.limits.feature_caps, self.limits.budget
        best = chosen = self._ends(*self.survivors.keep_best(self.wanted - 1, self.by_column))
        if caps is not None and budget is not None:
            chosen = self._ends(*self.survivors.keep_best(np.array([budget]), False))
        tokens, features, entries = self.survivors.matches()
        values = self._values(entries)
        # of no edges: the shape and the limits are all that prices need
        stack = EdgeScores(tokens[:0], features[:0], values[:0], (self.rows, self.columns), self.type)
        problem = Problem(stack, budget=budget, feature_caps=caps)
        full = counts_of(features, self.columns) == caps if self.by_column else None
        prices = prices_of_ends(problem, 1 if self.by_column else None, best, chosen, values.size, full)
        stats = {
            "solver": "select_stream",
            "reason": "blocks of rows are read once",
            "passes": 1,
            "seconds": time.perf_counter() - started,
        }
        return Solution.optimal(problem, (tokens, features, values), prices, stats)

    def _ends(self, last: Array, refused: Array) -> Ends:
        """The ends of every group as numbers."""
        numbers = self._values(last).astype(np.float64)
        return Ends(np.where(numbers > 0, numbers, np.inf), self._values(refused).astype(np.float64))

    def _values(self, entries: Array) -> Array:
        """Survivors in the scores' own type; bfloat16 as float32."""
        values = entries.view(self.kind)
        return DenseScores(values[None], self.type).widened(values) if self.type == "bfloat16" else values
