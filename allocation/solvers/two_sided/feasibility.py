"""Whether floors and caps contradict each other, before any score is looked at.

Prices of a problem without an answer rise without end, and a search notices late. Two tests come first. The counts
alone tell much: whatever a set of tokens must have, each feature gives each of them one match at most, and no more
than its cap; the worst set of each size holds the largest floors, so that sorting finds it. Where matches are
forbidden, or groups given, a maximum flow decides, on a few edges first, which mostly carry all floors.

Sources: Gale 1957 and Ryser 1957 (row and column sums of 0/1 matrices); Hoffman 1960 (circulations).
"""

from __future__ import annotations

import numpy as np

from allocation.arrays import Indices, Mask
from allocation.problem import Problem
from allocation.solvers.two_sided.block_passes import hash24
from allocation.solvers.two_sided.circulation import Network

# Edges up to which a maximum flow over all of them is worth while; and those tried first, for each line and each match
# that a floor demands.
MOST_EDGES = 1 << 18
FEW_EDGES = 8


def contradiction(problem: Problem, network: Network) -> Mask | None:
    """A set of nodes that must take in more than can leave it (see `witness`); None if these tests find none."""
    if not (network.lower > 0).any():
        return None
    inside = _by_counts(network)
    matrix = problem.matrix
    if inside is not None or matrix.on_device or matrix.n_edges > MOST_EDGES:
        return inside
    groups = bool(problem.token_groups or problem.feature_groups)
    allowed = matrix.allowed()
    if allowed.size == problem.shape[0] * problem.shape[1] and not groups:
        return None  # the counts decide
    few = FEW_EDGES * (sum(problem.shape) + int(network.lower[network.lower > 0].sum()))
    if few < allowed.size:
        some = allowed[hash24(np, allowed) < (few << 24) // allowed.size]
        if _by_flow(network, *matrix.ends(some)) is None:
            return None
    return _by_flow(network, *matrix.ends(allowed))


def _by_counts(network: Network) -> Mask | None:
    """A set that the floors and caps of single lines and the budget already contradict, were all matches allowed."""
    floors = [np.maximum(network.lower[arcs], 0) for arcs in network.lines]
    caps = [network.upper[arcs] for arcs in network.lines]
    budget = int(network.upper[network.budget_arc])
    n_tokens, n_features = network.shape
    inside = np.zeros(network.n_nodes, bool)
    for side in (0, 1):
        # how much the lines of the largest floors demand, against what the other side's caps leave for so many
        order = np.argsort(-floors[side], kind="stable")
        demand = np.concatenate([[0], np.cumsum(floors[side][order])])
        room = _sum_of_least(caps[1 - side], demand.size)
        over = demand - room
        if (worst := int(over.argmax())) and over[worst] > 0:
            chosen = order[:worst]
            limited = np.flatnonzero(caps[1 - side] < worst)
            if side == 0:  # these tokens, and the features that their caps close
                inside[chosen] = True
                inside[n_tokens + limited] = True
            else:  # all but these features, and but the tokens that their caps close
                inside[:] = True
                inside[n_tokens + chosen] = False
                inside[limited] = False
            return inside
    order = np.argsort(-floors[0], kind="stable")
    demand = np.concatenate([[0], np.cumsum(floors[0][order])])
    # what features demand beyond one match from each of these tokens
    beyond = int(floors[1].sum()) - _sum_of_least(floors[1], demand.size)
    over = demand + beyond - budget
    worst = int(over.argmax())
    if over[worst] <= 0:
        return None
    inside[order[:worst]] = True
    inside[n_tokens : n_tokens + n_features] = floors[1] <= worst
    inside[network.feature_root] = True
    inside[network.feature_root + 1 + network.n_token_groups :] = True  # whatever a feature gives passes its groups
    return inside


def _sum_of_least(limits: Indices, n: int) -> Indices:
    """`sum_j min(limit_j, a)` for `a` from 0 to `n - 1`."""
    # from a to a + 1 every limit above a adds one
    above = limits.size - np.searchsorted(np.sort(limits), np.arange(n - 1), side="right")
    return np.concatenate([[0], np.cumsum(above)])


def _by_flow(network: Network, tokens: Indices, features: Indices) -> Mask | None:
    """A set that no circulation on these edges satisfies: those a floor's demand reaches, and cannot leave."""
    from scipy.sparse import csr_array, csr_matrix
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    most, n_nodes = tokens.size, network.n_nodes
    lower = np.maximum(network.lower, 0)
    if (lower > most).any():
        lower = np.minimum(lower, most + 1)  # more than all edges carry, and counted without overflow
    # the budget may lie below a floor; the flow then fails by as much
    room = np.maximum(np.minimum(network.upper, most) - lower, 0)
    source, sink = n_nodes, n_nodes + 1
    demanded = np.flatnonzero(lower)
    tails = [network.tails, tokens, np.full(demanded.size, source), network.tails[demanded]]
    heads = [network.heads, features + network.shape[0], network.heads[demanded], np.full(demanded.size, sink)]
    capacity = np.concatenate([room, np.ones(most, np.int64), lower[demanded], lower[demanded]])
    graph = csr_matrix(
        (capacity.astype(np.int32), (np.concatenate(tails), np.concatenate(heads))), shape=(n_nodes + 2, n_nodes + 2)
    )
    result = maximum_flow(graph, source, sink)
    if result.flow_value == int(lower.sum()):
        return None
    residual = csr_array(graph - result.flow)
    residual.data = np.maximum(residual.data, 0)
    residual.eliminate_zeros()
    inside = np.zeros(n_nodes + 2, bool)
    inside[breadth_first_order(residual, source, return_predecessors=False)] = True
    return inside[:n_nodes]
