"""Why no allocation satisfies all floors and caps: a set of them, named with numbers."""

from __future__ import annotations

import numpy as np

from allocation.arguments import matches_in_words
from allocation.arrays import Indices, Mask
from allocation.problem import Problem
from allocation.solvers.two_sided.circulation import Network

# Limits named of each kind; the message stays short.
_SHOWN = 5


def witness(problem: Problem, network: Network, inside: Mask) -> str:
    """The sentence that proves infeasibility from a set of nodes that must take in more than can leave it.

    Hoffman's theorem: a circulation exists iff for every set of nodes the floors of the arcs into it are at most the
    caps of the arcs out of it. Arcs are the limits and, of capacity 1, the allowed edges.

    Parameters
    ----------
    problem : Problem
    network : Network
    inside : (nodes,) bool

    Source: Hoffman 1960; for one floor against caps of the other side it is Hall's condition.
    """
    entering = ~inside[network.tails] & inside[network.heads]
    leaving = inside[network.tails] & ~inside[network.heads]
    floors = np.flatnonzero(entering & (network.lower > 0))
    caps = np.flatnonzero(leaving)
    n_tokens = problem.shape[0]
    edges = problem.matrix.count_allowed(inside[:n_tokens], ~inside[n_tokens : network.token_root])
    demanded, room = int(network.lower[floors].sum()), int(network.upper[caps].sum()) + edges
    sides = [f"the caps of {_named(network, caps, network.upper)}"] if caps.size else []
    if edges or not sides:
        tokens = int(np.count_nonzero(inside[:n_tokens]))
        features = int(np.count_nonzero(~inside[n_tokens : network.token_root]))
        allowed = f"the {edges} allowed matches of {tokens} token(s) with {features} feature(s)"
        sides.append(allowed if tokens and features else "no further match")
    return (
        f"the floors of {_named(network, floors, network.lower)} demand {matches_in_words(demanded)}, more than the "
        f"{room} that {' and '.join(sides)} leave"
    )


def _named(network: Network, arcs: Indices, bounds: Indices) -> str:
    """Limits by block, a few indices with their numbers and how many more."""
    parts = []
    for name, block in network.blocks.items():
        chosen = arcs[(arcs >= block.start) & (arcs < block.stop)]
        if not chosen.size:
            continue
        if name == "budget":
            parts.append(f"budget ({bounds[chosen[0]]})")
            continue
        shown = ", ".join(f"{arc - block.start} ({bounds[arc]})" for arc in chosen[:_SHOWN])
        more = f" and {chosen.size - _SHOWN} more" if chosen.size > _SHOWN else ""
        parts.append(f"{name} {shown}{more}")
    return "; ".join(parts) or "nothing"
