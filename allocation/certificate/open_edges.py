"""Rough scores as the certificate reads them: exact for the matches, and wherever a bound leaves a doubt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Indices, Reals
from allocation.problem import Problem
from allocation.rough import Rough
from allocation.scores import EdgeScores

# Entries compared at once, and how near to its prices, relative to what is added up, an upper bound leaves a doubt.
_ENTRIES, _NEAR = 1 << 16, 2.0**-30


def open_edges(
    problem: Problem, rough: Rough, tokens: NDArray[Any], features: NDArray[Any], prices: list[Reals]
) -> Problem:
    """The same limits on the matches, on every edge whose upper bound comes near or above its prices, and two others.

    An edge that is left out scores less than its prices, so it breaks no condition of the certificate: it earns
    nothing, no full group holds a worse match, and no other match could be exchanged for it. `prices` are the sums per
    token and per feature.
    """
    rows, columns = problem.shape
    inside = (tokens >= 0) & (tokens < rows) & (features >= 0) & (features < columns)
    matched = tokens[inside].astype(np.int64) * columns + features[inside].astype(np.int64)
    near = rough.approximate.widened(np.ascontiguousarray(rough.approximate.array.reshape(-1)[matched]))
    allowed = near > -np.inf
    ids = np.sort(np.concatenate([matched[allowed], *_doubtful(rough, *prices)]))
    ids = ids[np.diff(ids, prepend=-1) > 0]  # a sort is quicker than the hashes of np.unique
    ends = ids // max(columns, 1), ids % max(columns, 1)
    values = rough.evaluate(*ends)
    return problem.with_scores(EdgeScores(*ends, values, problem.shape, values.dtype.name))


def _doubtful(rough: Rough, row_prices: Reals, column_prices: Reals) -> Iterator[Indices]:
    """Flat positions, block by block, of what may score more than its prices, or as much.

    The last ones are those of the largest and the smallest allowed entry: from their size follows what rounding hides.
    """
    rows, columns = rough.shape
    most, least = (-np.inf, -1), (np.inf, -1)
    step = max(1, _ENTRIES // max(columns, 1))
    for start in range(0, rows, step):
        block = slice(start, min(start + step, rows))
        near = rough.approximate.rows(block.start, block.stop).astype(np.float64)
        size = np.where(near > -np.inf, np.abs(near), 0.0)
        for entry in _ends(near, start * columns):
            most, least = max(most, entry), min(least, entry)
        upper = near + rough.per_token[block, None] * rough.per_feature + rough.relative * size
        spent = row_prices[block, None] + column_prices
        size += np.abs(row_prices)[block, None] + np.abs(column_prices)
        yield np.flatnonzero((upper >= spent - _NEAR * size) & (near > -np.inf)) + start * columns
    yield np.array([position for _, position in (most, least) if position >= 0], np.int64)


def _ends(near: Reals, first: int) -> list[tuple[float, int]]:
    """The largest and the smallest allowed entry of a block, each with its flat position; none if there is none."""
    entries = near.reshape(-1)
    if not entries.size:
        return []
    at = int(entries.argmax()), int(np.where(entries > -np.inf, entries, np.inf).argmin())
    return [(float(entries[i]), first + i) for i in at] if entries[at[0]] > -np.inf else []
