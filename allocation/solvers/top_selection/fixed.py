"""Selection on a CUDA device into arrays whose sizes the host knows: nothing waits for a number. Not for the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from allocation.arguments import count_of, is_on_device, matches_in_words, shown
from allocation.arrays import Indices
from allocation.cuda.floors import select_floored
from allocation.cuda.scores import FixedTop
from allocation.cuda.validation import device_scores
from allocation.errors import InfeasibleError, InvalidProblemError
from allocation.problem import limits_of
from allocation.solvers.top_selection.solver import HINT_SLACK


def select_fixed(
    scores: Any,
    budget: int | None = None,
    token_caps: Any = None,
    feature_caps: Any = None,
    token_floors: Any = None,
    feature_floors: Any = None,
    warm_start: Any = None,
) -> FixedTop:
    """The matches of `solve` on a CUDA device, padded to the most that the limits allow.

    ::

        maximise sum_ij S_ij A_ij   subject to one limit: budget, or a cap of every token, or a cap of every feature;
            or to a budget with floors, and caps, of the tokens or of the features

    For graph capture and training loops: the host reads no number from the device, so the scores are not checked, and
    +inf counts as the largest score; which NaN count as large depends on their signs and on the engine.

    Parameters
    ----------
    scores : (tokens, features) CuPy array or CUDA tensor
    budget : int, optional
        Most matches in all.
    token_caps, feature_caps : int or integer vector, optional
        Most matches of each token, or of each feature.
    token_floors, feature_floors : int or integer vector, optional
        Least matches of each token, or of each feature, beside a budget. A token or feature of which too many matches
        are forbidden takes all that are allowed.
    warm_start : float64 vector on the device, optional
        ``warm_start`` of a selection from similar scores, such as the last batch, or other prices that are expected.
        They change the time, never the answer.

    Returns
    -------
    FixedTop
        ``positions`` are ``token * features + feature``, ascending; the first ``count`` of them are matches.

    Raises
    ------
    InvalidProblemError
        For any other limits, and for scores that are not a CUDA matrix.
    InfeasibleError
        If floors exceed a cap, the budget, or the matrix.

    Examples
    --------
    >>> import allocation as al, torch
    >>> found = al.select_fixed(torch.rand(4, 8, device="cuda"), budget=6)  # doctest: +SKIP
    >>> found.positions.shape, found.count  # doctest: +SKIP
    """
    of_sides = ((token_caps, token_floors), (feature_caps, feature_floors))
    limited = [axis for axis, limits in enumerate(of_sides) if any(limit is not None for limit in limits)]
    floored = token_floors is not None or feature_floors is not None
    if len(limited) > 1 or (budget is None and (floored or not limited)):
        raise InvalidProblemError(
            "budget, token_caps, feature_caps: expected exactly one of them, or a budget with limits of one side"
        )
    if not (is_on_device(scores) or hasattr(scores, "detach")):
        raise InvalidProblemError(f"scores: expected a CuPy array or a CUDA tensor, found {shown(scores)}")
    matrix = device_scores(scores, check_finite=False)
    most = None if budget is None else count_of(budget, "budget")
    axis = limited[0] if limited else None
    caps = floors = None
    if axis is not None:
        side = ("token", "feature")[axis]
        caps, floors = (
            limits_of(limit, f"{side}_{kind}", matrix.shape[axis])
            for limit, kind in zip(of_sides[axis], ("caps", "floors"), strict=True)
        )
        if most is not None:
            floors = np.zeros(matrix.shape[axis], np.int64) if floors is None else floors
            _refuse_large_floors(side, floors, caps, most, matrix.shape[1 - axis])
    searched = axis if most is None or caps is not None else None
    groups = 1 if searched is None else matrix.shape[searched]
    if warm_start is not None and _place(warm_start) != (*_place(matrix.array)[:2], (groups,)):
        raise InvalidProblemError(
            f"warm_start: expected {groups} numbers on the device of the scores, found {shown(warm_start)}"
        )
    with matrix.scope():
        expected = None
        if warm_start is not None:  # prices may fall by this share from batch to batch
            xp = matrix.namespace
            expected = xp.asarray(warm_start, dtype=xp.float64) * (1 - HINT_SLACK[searched])
        if most is None:
            assert caps is not None
            return matrix.engine.padded_top(matrix, axis, caps, expected=expected)
        if axis is None:
            return matrix.engine.padded_top(matrix, None, np.array([most]), expected=expected)
        assert floors is not None
        return select_floored(matrix, axis, most, floors, caps, expected)


def _place(array: Any) -> tuple[str, str, tuple[int, ...]]:
    """The library, the device and the shape of an array."""
    library = type(array).__module__.partition(".")[0]
    return library, str(getattr(array, "device", None)), tuple(getattr(array, "shape", ()))


def _refuse_large_floors(side: str, floors: Indices, caps: Indices | None, budget: int, length: int) -> None:
    """`InfeasibleError` for what can be said without reading a score."""
    if caps is not None and (wrong := np.flatnonzero(floors > caps)).size:
        at = int(wrong[0])
        raise InfeasibleError(f"{side}s[{at}] has floor {floors[at]} above its cap {caps[at]}")
    if (wrong := np.flatnonzero(floors > length)).size:
        at = int(wrong[0])
        raise InfeasibleError(f"{side}s[{at}] has floor {floors[at]}, but only {length} allowed matches fit inside it")
    if int(floors.sum()) > budget:
        raise InfeasibleError(
            f"budget has cap {budget}, but the floors inside it demand {matches_in_words(floors.sum())}"
        )
