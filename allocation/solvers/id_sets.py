"""Sets of edges as ascending ids: sorted arrays merge faster than NumPy's general set routines hash them."""

from __future__ import annotations

import numpy as np

from allocation.scores import Indices
from allocation.solvers.network import Mask


def union(*parts: Indices) -> Indices:
    """Ids in any of the parts, ascending; the parts need not be."""
    ids = np.sort(np.concatenate(parts), kind="stable")
    return ids[np.concatenate([[True], ids[1:] != ids[:-1]])] if ids.size else ids


def among(ids: Indices, others: Indices) -> Mask:
    """Which of `ids` are in `others`, which ascend."""
    if not others.size:
        return np.zeros(ids.size, bool)
    return np.asarray(others[np.minimum(np.searchsorted(others, ids), others.size - 1)] == ids)


def without(ids: Indices, others: Indices) -> Indices:
    """The `ids` that are not in `others`, which ascend."""
    return ids[~among(ids, others)]
