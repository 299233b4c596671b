"""What exceeds thresholds, of scores that are known roughly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from allocation.arguments import array_of, shown
from allocation.arrays import Array, Indices, Reals
from allocation.errors import InvalidProblemError
from allocation.rough import Rough
from allocation.solvers.known import Known
from allocation.solvers.reach import Reach, Thresholds

_LARGEST = float(np.finfo(np.float64).max) / 4


def exceeding(rough: Rough, theta: ArrayLike, workers: int | None = None) -> tuple[Indices, Indices, Array]:
    """The pairs whose exact score exceeds their feature's threshold.

    ::

        A_ij = 1  iff  S_ij > theta_j

    Asks for the exact score of every pair whose upper bound exceeds it.

    Parameters
    ----------
    rough : Rough
    theta : number or (features,) vector
        In units of the scores.
    workers : int, optional
        Threads.

    Returns
    -------
    tokens, features : (pairs,) int64
        Sorted by token, then by feature.
    scores : (pairs,)
        Exact.

    Raises
    ------
    InvalidProblemError
        If a threshold is NaN, or a score breaks its bound.

    Examples
    --------
    >>> import allocation as al, numpy as np
    >>> S = np.array([[1.0, 0.5], [0.0, 2.0]])
    >>> rough = al.Rough(S.astype(np.float16), (1e-3, 1.0), lambda i, j: S[i, j])
    >>> al.exceeding(rough, 0.75)
    (array([0, 1]), array([0, 1]), array([1., 2.]))
    """
    limits = _thresholds(rough, theta)
    ids = Reach.of(rough).ids_from(rough, Thresholds(np.zeros(rough.shape[0]), limits), workers=workers)
    tokens, features = rough.ends(ids)
    scores = Known.of(rough).scores(rough, ids)
    above = scores > limits[features]
    return tokens[above], features[above], scores[above]


def count_exceeding(rough: Rough, theta: ArrayLike, workers: int | None = None) -> Indices:
    """How many scores of every feature exceed its threshold.

    ::

        c_j = sum_i [S_ij > theta_j]

    Asks only for the exact scores of pairs whose bounds lie on both sides of the threshold.

    Parameters
    ----------
    rough : Rough
    theta : number or (features,) vector
        In units of the scores.
    workers : int, optional
        Threads.

    Returns
    -------
    (features,) int64

    Raises
    ------
    InvalidProblemError
        If a threshold is NaN, or a score breaks its bound.

    Examples
    --------
    >>> import allocation as al, numpy as np
    >>> S = np.array([[1.0, 0.5], [0.0, 2.0]])
    >>> rough = al.Rough(S.astype(np.float16), (1e-3, 1.0), lambda i, j: S[i, j])
    >>> al.count_exceeding(rough, [0.25, 0.25])
    array([1, 2])
    """
    limits = _thresholds(rough, theta)
    reach = Reach.of(rough)
    mask = reach.mask_from(rough, Thresholds(np.zeros(rough.shape[0]), limits), workers=workers)
    ids, near = reach.ids[mask], reach.near[mask]
    tokens, features = rough.ends(ids)
    bound = rough.errors_at(tokens, features, near)
    # a little more than the bound, for it was rounded itself
    sure = near - bound * (1 + 2.0**-40) - 2.0**-40 * np.abs(near) > limits[features]
    open_ = np.flatnonzero(~sure)
    sure[open_] = Known.of(rough).scores(rough, ids[open_]) > limits[features[open_]]
    return np.bincount(features[sure], minlength=rough.shape[1])


def _thresholds(rough: Rough, theta: Any) -> Reals:
    size = rough.shape[1]
    array = array_of(theta, "theta", f"a number or {size} numbers")
    if array.dtype.kind not in "iuf" or array.shape not in ((), (size,)) or bool(np.isnan(array).any()):
        raise InvalidProblemError(f"theta: expected a number or {size} numbers, found {shown(theta)}")
    # no finite score tells infinity from the largest number, which can be subtracted
    return np.broadcast_to(np.clip(array.astype(np.float64), -_LARGEST, _LARGEST), (size,))
