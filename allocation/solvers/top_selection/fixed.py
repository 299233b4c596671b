"""Selection on a CUDA device into arrays whose sizes the host knows: nothing waits for a number. Not for the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from allocation.arguments import count_of, is_on_device, shown
from allocation.arrays import Indices
from allocation.cuda.scores import FixedTop
from allocation.cuda.validation import device_scores
from allocation.errors import InvalidProblemError
from allocation.problem import limits_of


def select_fixed(scores: Any, budget: int | None = None, token_caps: Any = None, feature_caps: Any = None) -> FixedTop:
    """The matches of `solve` on a CUDA device, padded to the most that the limit allows.

    ::

        maximise sum_ij S_ij A_ij   subject to one limit: budget, or a cap of every token, or a cap of every feature

    For graph capture and training loops: the host reads no number from the device, so the scores are not checked, and
    NaN and +inf count as large scores.

    Parameters
    ----------
    scores : (tokens, features) CuPy array or CUDA tensor
    budget : int, optional
        Most matches in all.
    token_caps, feature_caps : int or integer vector, optional
        Most matches of each token, or of each feature.

    Returns
    -------
    FixedTop
        ``positions`` are ``token * features + feature``, ascending; the first ``count`` of them are matches.

    Raises
    ------
    InvalidProblemError
        Unless exactly one limit is given, and for scores that are not a CUDA matrix.

    Examples
    --------
    >>> import allocation as al, torch
    >>> found = al.select_fixed(torch.rand(4, 8, device="cuda"), budget=6)  # doctest: +SKIP
    >>> found.positions.shape, found.count  # doctest: +SKIP
    """
    if sum(limit is not None for limit in (budget, token_caps, feature_caps)) != 1:
        raise InvalidProblemError("budget, token_caps, feature_caps: expected exactly one of them")
    if not (is_on_device(scores) or hasattr(scores, "detach")):
        raise InvalidProblemError(f"scores: expected a CuPy array or a CUDA tensor, found {shown(scores)}")
    matrix = device_scores(scores, check_finite=False)
    axis: int | None
    caps: Indices | None
    if budget is not None:
        axis, caps = None, np.array([count_of(budget, "budget")])
    elif token_caps is not None:
        axis, caps = 0, limits_of(token_caps, "token_caps", matrix.shape[0])
    else:
        axis, caps = 1, limits_of(feature_caps, "feature_caps", matrix.shape[1])
    assert caps is not None  # exactly one limit is given
    with matrix.scope():
        return matrix.engine.padded_top(matrix, axis, caps)
