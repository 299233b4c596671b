"""The edges worth looking at before any price is known, and a smaller problem that tells the prices.

Every token offers its best edges and every feature its own, a small multiple of what its limits allow. That fails where
a few lines hold the best scores of all others; then the prices found on these edges show which were wrongly left
out. A sample of the tokens, with its share of every limit, makes such rounds cheap: its prices of the features and the
budget are close to those of the whole problem.
"""

from __future__ import annotations

import numpy as np

from allocation.arrays import Indices, union
from allocation.problem import Group, Problem
from allocation.solvers.two_sided.circulation import Network
from allocation.solvers.two_sided.pricing import AllEdges

# Problems with fewer edges take them all. Where prices need not stay the same bits, from one version to the next, only
# those do where looking for the better ones takes longer, and those whose prices sweeps do not settle.
SMALL = 1 << 16
ALWAYS_ALL = 1 << 15
# Entries sampled, ranks collected in multiples of what a limit allows, and edges added to each of these ranks.
SAMPLE = 1 << 19
WIDE = 3
EXTRA = 8


def first_candidates(edges: AllEdges, network: Network, small: int = SMALL) -> Indices:
    """Ids of the best edges of every token and of every feature, ascending."""
    matrix = edges.problem.matrix
    if matrix.dense is None or matrix.n_edges <= small:
        return matrix.allowed()
    best_of_sides = []
    for side in (0, 1):
        ranks = line_ranks(network, side)
        best_of_sides.append(edges.best_of_lines(side, np.arange(ranks.size), ranks, np.zeros(network.shape[1 - side])))
    return union(*best_of_sides)


def line_ranks(network: Network, side: int) -> Indices:
    """How many of its best edges each token (side 0) or feature (side 1) offers."""
    arcs, others = network.lines[side], network.lines[1 - side]
    length = network.shape[1 - side]
    upper, lower = network.upper[arcs], np.maximum(network.lower[arcs], 0)
    # without caps the share of what the others allow
    total = min(int(network.upper[network.budget_arc]), int(network.upper[others].sum()))
    usual = np.maximum(np.minimum(upper, -(-total // max(upper.size, 1))), lower)
    return np.asarray(np.minimum(WIDE * usual + EXTRA, length))


def sampled_tokens(problem: Problem) -> Indices:
    """Tokens that stand for all; all of them if the problem is no larger than a sample."""
    n_tokens, n_features = problem.shape
    size = min(n_tokens, max(64, SAMPLE // max(n_features, 1)))
    return np.unique(np.linspace(0, n_tokens - 1, size).astype(np.int64))


def sample_of(problem: Problem, tokens: Indices) -> Problem:
    """The problem of some tokens, with their share of every limit that counts all tokens."""
    share = tokens.size / problem.shape[0]
    matrix = problem.matrix.dense
    assert matrix is not None  # candidate edges are all taken

    def cap(limit: Indices, by: float) -> Indices:
        return np.asarray(np.where(limit > 0, np.maximum(np.rint(limit * by), 1), 0)).astype(np.int64)

    def group(members: Indices, of: Group, by: float) -> Group:
        most = None if of.cap is None else int(np.ceil(of.cap * by))
        return Group(members, most, None if of.floor is None else int(of.floor * by))

    row_of = np.full(problem.shape[0], -1)
    row_of[tokens] = np.arange(tokens.size)
    token_groups = []
    for of in problem.token_groups:
        members = row_of[of.members]
        members = members[members >= 0]
        token_groups.append(group(members, of, members.size / max(len(of.members), 1)))
    floors = problem.feature_floors
    return Problem(
        matrix.part(tokens),
        budget=None if problem.budget is None else int(np.ceil(problem.budget * share)),
        token_caps=None if problem.token_caps is None else problem.token_caps[tokens],
        token_floors=None if problem.token_floors is None else problem.token_floors[tokens],
        feature_caps=None if problem.feature_caps is None else cap(problem.feature_caps, share),
        feature_floors=None if floors is None else (floors * share).astype(np.int64),
        token_groups=token_groups,
        feature_groups=[group(of.members, of, share) for of in problem.feature_groups],
    )
