"""The edges worth looking at before any price is known.

An edge below a small multiple of its token's cap, of its feature's cap, and of the budget can only be matched if many
better ones are displaced. A sample of tokens tells where these ranks lie; one pass over the scores collects what is
above them. Lines with floors get their best edges in any case. A wrong guess costs time: pricing finds what is missing.
"""

from __future__ import annotations

import numpy as np

from allocation.scores import Array, DenseScores, EdgeScores, Indices
from allocation.solvers.network import Network
from allocation.solvers.pricing import AllEdges, scattered
from allocation.threads import map_blocks

# Problems with fewer edges take them all.
SMALL = 1 << 16
# Entries sampled, ranks collected in multiples of what a limit allows, and edges added to each of these ranks.
SAMPLE = 1 << 19
WIDE = 3
EXTRA = 8


def first_candidates(edges: AllEdges, network: Network) -> Indices:
    """Ids of promising edges, ascending."""
    matrix = edges.matrix
    if isinstance(matrix, EdgeScores) or matrix.n_edges <= SMALL:
        return edges.allowed()
    n_tokens, n_features = network.shape
    token_rank = _ranks(network.upper[:n_tokens], n_features)
    feature_rank = _ranks(network.upper[n_tokens : network.budget_arc], n_tokens)
    budget = min(int(network.upper[network.budget_arc]), int(network.upper[:n_tokens].sum()))
    budget = min(budget, int(network.upper[n_tokens : network.budget_arc].sum()))
    at_columns, at_all = _bracket(matrix, token_rank, feature_rank, budget)
    bars = np.maximum(at_columns, at_all)
    most_per_row = (WIDE + 1) * budget / n_tokens + 4 * (n_tokens + n_features) / n_tokens

    def found(start: int, stop: int) -> Indices:
        block = matrix.rows(start, stop)
        at = np.flatnonzero(block >= bars)
        most = int(most_per_row * (stop - start))
        if at.size > most:
            at = _trimmed(block, at, most, token_rank[start:stop], bars)
        return at + start * n_features

    parts = map_blocks(found, n_tokens, matrix.array.nbytes, edges.workers)
    ids = np.concatenate(parts)
    return _with_floors(edges, network, ids)


def _ranks(caps: Indices, length: int) -> Indices:
    return np.asarray(np.minimum(WIDE * np.minimum(caps, length) + EXTRA, length))


def _bracket(matrix: DenseScores, token_rank: Indices, feature_rank: Indices, budget: int) -> tuple[Array, Array]:
    """A bar per column and one for all, from a sample of rows, in the type the scores are compared in."""
    n_tokens, n_features = matrix.shape
    n_sampled = min(n_tokens, max(64, SAMPLE // n_features))
    rows = np.unique(np.linspace(0, n_tokens - 1, n_sampled).astype(np.int64))
    share = rows.size / n_tokens
    block = np.ascontiguousarray(matrix.widened(matrix.array[rows]))
    lowest = block.dtype.type(-np.inf) if block.dtype.kind == "f" else np.iinfo(block.dtype).min
    by_row = np.sort(block, axis=1)[np.arange(rows.size), n_features - token_rank[rows]]
    ranked = np.sort(np.ascontiguousarray(block.T), axis=1)
    rank = np.ceil(feature_rank * share).astype(np.int64)
    at_columns = np.where(rank < rows.size, ranked[np.arange(n_features), np.maximum(rows.size - rank, 0)], lowest)
    kept = block[(block >= by_row[:, None]) & (block >= at_columns)]
    wanted = max(1, int((WIDE * budget + EXTRA) * share))
    at_all = np.partition(kept, kept.size - wanted)[kept.size - wanted] if wanted < kept.size else lowest
    zero = block.dtype.type(0)  # without a floor nothing below 0 is ever matched
    return at_columns.astype(block.dtype), np.maximum(at_all, zero)


def _trimmed(block: Array, at: Indices, most: int, ranks: Indices, bars: Array) -> Indices:
    """At most about `most` of the entries: first the surplus of each row, then entries that only tie with their bar."""
    n_rows, n_columns = block.shape
    counts = np.bincount(at // n_columns, minlength=n_rows)
    over = np.flatnonzero(counts > ranks)
    if over.size:
        kept = block >= bars
        lines = block[over]
        place = n_columns - ranks[over]
        bar = np.sort(lines, axis=1)[np.arange(over.size), place]
        kept[over] &= lines >= bar[:, None]
        at = np.flatnonzero(kept)
    if at.size <= most:
        return at
    above = block.reshape(-1)[at] > bars[at % n_columns]
    n_above = int(np.count_nonzero(above))
    if n_above >= most:
        return at[scattered(at, most / at.size)]
    return np.asarray(at[above | scattered(at, (most - n_above) / (at.size - n_above))])


def _with_floors(edges: AllEdges, network: Network, ids: Indices) -> Indices:
    """With the best edges of tokens and features that have fewer candidates than their floors need."""
    n_tokens, n_features = network.shape
    found = [ids]
    ends = edges.ends(ids)
    for side, size in ((0, n_tokens), (1, n_features)):
        arcs = slice(0, n_tokens) if side == 0 else slice(n_tokens, network.budget_arc)
        floors = np.maximum(network.lower[arcs], 0)
        counts = np.bincount(ends[side], minlength=size)
        poor = np.flatnonzero((floors > 0) & (counts < floors + EXTRA // 2))
        if poor.size:
            wanted = int(floors[poor].max()) + EXTRA // 2
            found.append(edges.best_of_lines(side, poor, wanted, np.zeros((n_features, n_tokens)[side])))
    return np.unique(np.concatenate(found)) if len(found) > 1 else ids
