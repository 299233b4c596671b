"""The scores as the certificate reads them: of matches, and of all that was refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Indices, Reals
from allocation.problem import Problem
from allocation.scores import EdgeScores


def malformed(problem: Problem, tokens: Indices, features: Indices, values: NDArray[Any]) -> list[str]:
    """Conditions without which nothing else can be checked."""
    rows, columns = problem.shape
    if not (tokens.shape == features.shape == values.shape and tokens.ndim == 1):
        return [f"tokens, features and values have shapes {tokens.shape}, {features.shape}, {values.shape}"]
    if tokens.size == 0:
        return []
    for name, ends, size in (("token", tokens, rows), ("feature", features, columns)):
        if ends.min() < 0 or ends.max() >= size:
            return [f"a match names {name} {ends.min() if ends.min() < 0 else ends.max()}, outside 0..{size - 1}"]
    flat = tokens * columns + features
    if np.any(flat[1:] <= flat[:-1]):
        at = int(np.flatnonzero(flat[1:] <= flat[:-1])[0])
        return [f"match {at + 1} repeats an earlier one or is out of (token, feature) order"]
    expected = scores_of(problem, tokens, features)
    forbidden = np.flatnonzero(expected == -np.inf)
    if forbidden.size:
        return [f"the match of token {tokens[forbidden[0]]} with feature {features[forbidden[0]]} is forbidden"]
    wrong = np.flatnonzero(expected != values.astype(np.float64))
    if problem.matrix.is_integer and values.dtype.kind in "iu" and not wrong.size:
        wrong = np.flatnonzero(entries_of(problem, tokens, features) != values)  # beyond 2^53 they may round alike
    if wrong.size:
        return [f"values[{wrong[0]}] is {values[wrong[0]]}, but the score there is {expected[wrong[0]]}"]
    return []


def scores_of(problem: Problem, tokens: Indices, features: Indices) -> Reals:
    """Scores of matches as float64; -inf where no edge joins them."""
    matrix = problem.matrix
    if not isinstance(matrix, EdgeScores):
        return matrix.widened(np.ascontiguousarray(matrix.array[tokens, features])).astype(np.float64)
    if matrix.n_edges == 0:
        return np.full(tokens.shape, -np.inf)
    at, joined = _edges_at(matrix, tokens, features)
    return np.where(joined, matrix.array[at].astype(np.float64), -np.inf)


def entries_of(problem: Problem, tokens: Indices, features: Indices) -> NDArray[Any]:
    """Scores of matches, each of which an edge joins, integers in their own type."""
    matrix = problem.matrix
    if not matrix.is_integer:
        return scores_of(problem, tokens, features)
    if isinstance(matrix, EdgeScores):
        return np.asarray(matrix.array[_edges_at(matrix, tokens, features)[0]] if tokens.size else matrix.array[:0])
    return np.asarray(matrix.array[tokens, features])


def _edges_at(matrix: EdgeScores, tokens: Indices, features: Indices) -> tuple[Indices, NDArray[np.bool_]]:
    """Where in the list the edges of these ends are, and whether they are there."""
    wanted = tokens * matrix.shape[1] + features
    flat = matrix.tokens * matrix.shape[1] + matrix.features
    at = np.minimum(np.searchsorted(flat, wanted), flat.size - 1)
    return at, flat[at] == wanted


def largest_of(problem: Problem) -> float:
    """The largest absolute score that is not -inf."""
    matrix = problem.matrix
    array = matrix.array if isinstance(matrix, EdgeScores) else matrix.widened(matrix.array)
    least = float(np.min(array, initial=0, where=array > -np.inf))
    return max(float(np.max(array, initial=0)), -least)


@dataclass(frozen=True, eq=False)
class Block:
    """Some edges with the selected ones at -inf: a vector each, or a column, a row and a matrix."""

    tokens: Indices
    features: Indices
    scores: NDArray[Any]

    def best(self, side: int, size: int) -> NDArray[Any]:
        """Largest score per token (side 0) or per feature (side 1); the least there can be where there is none."""
        kind = self.scores.dtype
        best = np.full(size, -np.inf if kind.kind == "f" else np.iinfo(kind).min, kind)
        if self.scores.ndim == 1:
            np.maximum.at(best, (self.tokens, self.features)[side], self.scores)
        elif self.scores.size:
            ends = (self.tokens, self.features)[side].reshape(-1)
            best[ends] = self.scores.max(axis=1 - side)
        return best


def refused_blocks(
    problem: Problem, tokens: Indices, features: Indices, first: tuple[int, int] = (0, 0), kind: Any = np.float64,
    absent: Any = -np.inf,
) -> Iterator[Block]:  # fmt: skip
    """Every edge, the selected ones `absent`, in blocks of rows small enough for the cache.

    Ends are counted from `first`, the place of the problem's block in the whole.
    """
    matrix = problem.matrix
    if isinstance(matrix, EdgeScores):
        flat = matrix.tokens * matrix.shape[1] + matrix.features
        held = np.isin(flat, tokens * matrix.shape[1] + features)
        scores = np.where(held, np.array(absent, kind), matrix.array.astype(kind))
        yield Block(matrix.tokens + first[0], matrix.features + first[1], scores)
        return
    rows, columns = problem.shape
    step = max(1, (1 << 16) // max(columns, 1))
    of_features = first[1] + np.arange(columns)[None, :]
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        scores = matrix.rows(start, stop).astype(kind)
        inside = slice(*np.searchsorted(tokens, [start, stop]))
        scores[tokens[inside] - start, features[inside]] = absent
        yield Block(first[0] + np.arange(start, stop)[:, None], of_features, scores)
