"""Exact selection of row blocks that never fit in memory together.

Of every group only the cap + 1 best entries seen so far can be in the answer or set its price. Later blocks are
compared with the worst of those: a rising bracket, so that one reading is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from allocation.arguments import shown
from allocation.errors import InvalidProblemError
from allocation.problem import Problem
from allocation.scores import DenseScores, EdgeScores, Indices, dense_scores
from allocation.solution import Solution
from allocation.solve import solve
from allocation.solvers.price_search import Array, compact, finish, smallest_positive

# Candidates kept beyond the necessary ones before the surplus is dropped: 12 to 20 bytes each.
SURPLUS = 1 << 18


def select_stream(chunks: Iterable[Any], budget: int | None = None, feature_caps: Any = None) -> Solution:
    """The answer of `mutual_choice` or `feature_choice` on the row blocks stacked, bit for bit.

    ::

        maximise sum_ij S_ij A_ij   subject to   sum_ij A_ij <= budget   and   sum_i A_ij <= feature_caps_j

    One reading. Memory: one block, its survivors, and about four times the answer while it is put together.

    Parameters
    ----------
    chunks : re-iterable of (rows, features) arrays
        A list, a memory-mapped array split into blocks, a `torch.utils.data.DataLoader`, any object with ``__iter__``
        that starts anew. All blocks must have one number of features and one dtype.
    budget : int, optional
        Most matches in all.
    feature_caps : int or (features,) integer vector, optional
        Most matches of each feature.

    Returns
    -------
    Solution
        Tokens are counted through all blocks.

    Raises
    ------
    InvalidProblemError
        For a one-shot iterator, and for blocks that do not fit together.

    Examples
    --------
    >>> import allocation as al, numpy as np
    >>> blocks = [np.array([[3.0, 1.0]]), np.array([[2.0, 5.0], [4.0, 0.0]])]
    >>> al.select_stream(blocks, budget=3).tokens
    array([0, 1, 2])
    """
    if isinstance(chunks, (str, bytes, dict, set)) or not isinstance(chunks, Iterable):
        raise InvalidProblemError(f"chunks: expected blocks of rows, found {shown(chunks)}")
    if getattr(chunks, "ndim", 3) != 3:
        raise InvalidProblemError(f"chunks: expected blocks of rows, found one {shown(chunks)}; use al.solve")
    if isinstance(chunks, Iterator):
        raise InvalidProblemError(
            f"chunks: {type(chunks).__name__} can be read only once; pass a list or an object that starts anew"
        )
    if budget is None and feature_caps is None:
        raise InvalidProblemError("budget, feature_caps: expected at least one of them")
    candidates: _Candidates | None = None
    for number, chunk in enumerate(chunks):
        block = dense_scores(chunk, f"chunks[{number}]").on_host()
        if candidates is None:
            limits = Problem(np.empty((0, block.shape[1]), np.float32), budget=budget, feature_caps=feature_caps)
            candidates = _Candidates(block, limits)
        candidates.add(block, number)
    if candidates is None:
        limits = Problem(np.empty((0, np.size(feature_caps or ()))), budget=budget, feature_caps=feature_caps)
        return solve(limits)
    return solve(Problem(candidates.edges(), budget=budget, feature_caps=feature_caps))


class _Candidates:
    """The best entries so far: positions in the stack, values, and the value below which nothing can matter."""

    def __init__(self, first: DenseScores, limits: Problem) -> None:
        self.columns, self.type, self.kind = first.shape[1], first.type, first.ordered.dtype
        self.by_column = limits.feature_caps is not None
        caps = limits.feature_caps if limits.feature_caps is not None else np.array([limits.budget])
        self.wanted = np.minimum(caps, 1 << 62) + 1
        self.lower = np.full(self.wanted.size, smallest_positive(self.kind))
        self.rows = 0
        self.flat: list[Indices] = []
        self.values: list[Array] = []
        self.size, self.room = 0, SURPLUS

    def add(self, block: DenseScores, number: int) -> None:
        """Keep what may still matter of the next block."""
        if block.shape[1] != self.columns or block.type != self.type:
            raise InvalidProblemError(
                f"chunks[{number}] has {block.shape[1]} features of type {block.type}, the first has "
                f"{self.columns} of {self.type}"
            )
        flat = compact(block.ordered, self.lower if self.by_column else self.lower[0])
        self.values.append(block.ordered.reshape(-1)[flat])
        self.flat.append(flat + self.rows * self.columns)
        self.rows += block.shape[0]
        self.size += flat.size
        if self.size > self.room:
            self.prune()

    def prune(self) -> None:
        """Drop all but the wanted of every group, and raise the bracket to the worst of a full one."""
        flat, values = np.concatenate(self.flat), np.concatenate(self.values)
        groups = flat % self.columns if self.by_column else None
        best = finish(values, flat, groups, self.wanted)
        kept = np.searchsorted(flat, best.flat)
        self.flat, self.values, self.size = [flat[kept]], [values[kept]], kept.size
        counts = (
            np.bincount(best.flat % self.columns, minlength=self.columns) if self.by_column else np.array([kept.size])
        )
        full = counts == self.wanted
        self.lower[full] = values[np.searchsorted(flat, best.last[full])]
        self.room = self.size + SURPLUS

    def edges(self) -> EdgeScores:
        """The candidates as a problem of their own."""
        self.prune()
        flat = self.flat[0]
        tokens, features = np.divmod(flat, max(self.columns, 1))
        kind = self.kind if self.type == "bfloat16" else np.dtype(self.type)
        scores = DenseScores(self.values[0].view(kind)[None], self.type)
        return EdgeScores(
            tokens, features, scores.values_at(np.arange(flat.size)), (self.rows, self.columns), self.type
        )
