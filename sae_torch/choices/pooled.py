"""Prices of one pooled problem over blocks of scores that are never held together, of all processes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import allocation as al
from sae_torch.parallel.world import World


def pooled_price(world: World, chunks: Any, budget: int) -> float:
    """The price of a budget of matches over all blocks of all processes.

    The best of all are among the best of each process, of which one more than the budget tells the price.

    Parameters
    ----------
    world : World
    chunks : re-iterable of (tokens, features) scores
        The blocks of this process.
    budget : int

    Examples
    --------
    >>> import numpy as np
    >>> from sae_torch.choices.pooled import pooled_price
    >>> from sae_torch.parallel.world import ALONE
    >>> pooled_price(ALONE, [np.array([[3.0, 1.0]]), np.array([[2.0, 5.0]])], budget=2)
    2.0
    """
    if world.ranks is None:
        return float(al.select_stream(chunks, budget=budget).prices.budget.value)
    best = al.select_stream(chunks, budget=budget + 1).values[:, None]
    problem = al.Problem(best, budget, part=world.part_of_column(len(best)))
    return float(al.solve(problem, ranks=world.ranks).prices.budget.value)


def pooled_features(
    world: World, chunks: Any, caps: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """What features take of all blocks of all processes: how many matches, the score of the last, and of the next.

    Parameters
    ----------
    world : World
    chunks : re-iterable of (tokens, features) scores
        The blocks of this process.
    caps : (features,) int64
        Most matches of every feature.

    Returns
    -------
    counts, taken, refused : (features,) vectors
        `taken` is 0 for a feature with fewer matches than its cap, and infinite for a cap of 0.

    Examples
    --------
    >>> import numpy as np
    >>> from sae_torch.choices.pooled import pooled_features
    >>> from sae_torch.parallel.world import ALONE
    >>> pooled_features(ALONE, [np.array([[3.0, 1.0]]), np.array([[2.0, 5.0]])], np.array([1, 2]))
    (array([1, 2]), array([3., 1.]), array([2., 0.]))
    """
    if world.ranks is None:
        pooled = al.select_stream(chunks, feature_caps=caps)
        prices = pooled.prices.features
        return pooled.feature_counts, np.asarray(prices.upper), np.asarray(prices.value)
    best = al.select_stream(chunks, feature_caps=world.mine(caps) + 1)
    edges = (best.tokens, best.features, best.values)
    problem = al.Problem.from_edges(*edges, best.shape, feature_caps=caps, part=world.part(best.shape))
    settled = al.solve(problem, ranks=world.ranks)
    counts = world.of_features(settled.feature_counts)
    last = np.full(best.shape[1], np.inf)
    np.minimum.at(last, settled.features, settled.values)
    taken = np.where((counts < caps) & (caps > 0), 0.0, world.smallest(last))
    return counts, taken, world.all_features(np.asarray(settled.prices.features.value))
