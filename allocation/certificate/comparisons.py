"""Where limits stand on one side only, comparisons of scores decide, and no sum is taken."""

from __future__ import annotations

from typing import Any

import numpy as np

from allocation.certificate.edges import entries_of, refused_blocks
from allocation.certificate.parts import Claim


def by_comparison(claim: Claim) -> list[str] | None:
    """Optimality by comparisons of scores alone, where limits stand on one side only; None elsewhere.

    No group at its cap may refuse a better match than one it holds; no group below its cap may refuse one that scores
    above 0, or, once the budget is reached, above the worst match held anywhere; no match held may score 0 or less.
    """
    problem = claim.problem
    two_sided = problem.token_caps is not None and problem.feature_caps is not None
    floors = problem.token_floors is not None or problem.feature_floors is not None
    if two_sided or floors or problem.token_groups or problem.feature_groups:
        return None
    side = 1 if problem.feature_caps is not None else 0
    caps, size = (problem.token_caps, problem.feature_caps)[side], problem.shape[side]
    # in the scores' own integers, which float64 might round
    kind = np.dtype(problem.matrix.type) if problem.matrix.is_integer else np.dtype(np.float64)
    lowest, highest = (-np.inf, np.inf) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    worst, best = np.full(size, highest, kind), np.full(size, lowest, kind)
    held: Any = entries_of(claim.block, *claim.own).astype(kind)
    np.minimum.at(worst, claim.own[side] + claim.first[side], held)
    for block in refused_blocks(claim.block, *claim.own, claim.first, kind, lowest):
        best = np.maximum(best, block.best(side, size))
    worst, best = claim.of_all(worst).min(axis=0), claim.of_all(best).max(axis=0)
    full = np.zeros(size, bool)
    if caps is not None:
        full = np.bincount((claim.tokens, claim.features)[side], minlength=size) == caps
    reached = problem.budget is not None and claim.tokens.size == problem.budget
    least: Any = worst.min(initial=highest) if reached else 0
    found = []
    for wrong, text in (
        (full & (best > worst), "holds a match worse than one it refuses"),
        (~full & (best > least), "refuses a match better than the worst one held, or than none"),
        (worst <= 0, "holds a match that scores 0 or less"),
    ):
        if wrong.any():
            found.append(f"{('token', 'feature')[side]} {int(wrong.argmax())} {text}")
    return found
