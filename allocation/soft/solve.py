"""The soft twin: the same limits, shares between 0 and 1 instead of matches, smooth in the scores."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from allocation.arguments import number_of, shown
from allocation.arrays import Array, Indices, Mask, Reals
from allocation.errors import InvalidProblemError, NotCertifiedError, UnsupportedProblemError
from allocation.problem import Problem, checked_problem
from allocation.soft.descent import minimise
from allocation.soft.dual import Dual
from allocation.soft.forms import FORMS
from allocation.soft.solution import Inner, SoftSolution
from allocation.solution import Price, Prices, Status, no_price

# Counts that miss a cap by a larger share are not an answer.
ACCEPTED = 1e-7
# Candidate edges whose tokens and features make more pairs are computed on lines that have an edge.
MANY_PAIRS = 1 << 27
# Matrices of all pairs that are held at once.
MATRICES = 4
# Far below this share of the largest score, float64 cannot tell a price from its neighbours.
COLDEST = 1e-14


def soft_solve(problem: Problem, temperature: float, form: str = "entropy") -> SoftSolution:
    """The allocation with shares instead of matches, smooth in the scores.

    ::

        maximise   sum_ij S_ij A_ij + temperature * sum_ij R(A_ij)     over A in [0, 1]^(tokens x features)
        subject to sum_ij A_ij <= budget,   sum_j A_ij <= token_caps_i,   sum_i A_ij <= feature_caps_j
        solved by  A_ij = a((S_ij - lam - mu_i - nu_j) / temperature)

    ``form="entropy"``: `R(a) = -a log a - (1 - a) log(1 - a)`, `a(x) = sigmoid(x)`. ``form="clipped"``:
    `R(a) = a (1 - a) / 2`, `a(x) = clip(x + 1/2, 0, 1)`, which reaches 0 and 1. In both a score at its price has the
    share 1/2. Computed in float64; memory for a few matrices of that type. Of candidate edges these are of the tokens
    and features that have one.

    As the temperature falls, ``objective`` and ``value`` close in on the exact optimum from below and from above, and
    the shares go to the exact matches where these are unique.

    Parameters
    ----------
    problem : Problem
        With a budget, token caps, feature caps, or any mix of them.
    temperature : float
        Positive, in the unit of the scores: differences well below it are blurred.
    form : {"entropy", "clipped"}

    Returns
    -------
    SoftSolution

    Raises
    ------
    InvalidProblemError
        If the temperature is not positive and finite, or too small beside the scores for float64.
    UnsupportedProblemError
        If the problem has floors or groups, or if no memory holds the matrices.
    NotCertifiedError
        If rounding leaves a count off its cap.

    Source: Cominetti and San Martín 1994, *Mathematical Programming* 67, for the limit of temperature 0; Bertsekas
    1982, *SIAM Journal on Control and Optimization* 20, for Newton steps under bounds.

    Examples
    --------
    >>> import allocation as al
    >>> soft = al.soft_solve(al.mutual_choice([[2.0, 1.0], [0.0, 1.5]], budget=2), temperature=0.1)
    >>> soft.allocation.round(2)
    array([[1.  , 0.08],
           [0.  , 0.92]])
    >>> round(soft.prices.budget.value, 2)
    1.25
    """
    start = time.perf_counter()
    checked_problem(problem)
    if not isinstance(form, str) or form not in FORMS:
        raise InvalidProblemError(f"form: expected {' or '.join(map(repr, FORMS))}, found {shown(form)}")
    _refuse_floors_and_groups(problem)
    problem = problem.on_host()
    inner = _inner_of(problem)
    scores, caps = _dense(inner.problem), _caps(inner.problem)
    closed = caps == 0
    heat = _checked_temperature(temperature, float(scores.max(initial=0.0)))
    open_scores = np.where(_crossed(closed, scores.shape), -np.inf, scores) if closed.any() else scores
    dual = Dual(open_scores, np.where(closed, np.inf, caps), FORMS[form])
    point, steps = minimise(dual, heat)
    if point.residual > ACCEPTED:
        raise NotCertifiedError(
            f"soft_solve: after {steps} Newton steps a count is still off by {point.residual:.2g} of its cap; "
            f"raise the temperature {heat:g}, or use al.solve, its limit at temperature 0"
        )
    shares = dual.shares(point.prices)
    totals = _closing_prices(point.prices.total, closed, scores, heat, form)
    tokens, features = (inner.spread(side, part) for side, part in enumerate(np.split(totals[:-1], [scores.shape[0]])))
    return SoftSolution(
        problem,
        inner.problem.matrix.gathered(shares),
        Prices(
            no_price() if problem.budget is None else Price(float(totals[-1])),
            no_price(tokens.size) if problem.token_caps is None else Price(tokens),
            no_price(features.size) if problem.feature_caps is None else Price(features),
            no_price(0),
            no_price(0),
        ),
        heat,
        form,
        Status.OPTIMAL,
        {
            "solver": "soft_solve",
            "steps": steps,
            "residual": point.residual,
            "seconds": time.perf_counter() - start,
        },
        inner,
        shares,
        point.slopes,
        point.equations(point.prices.fine > point.prices.lowest),
    )


def _refuse_floors_and_groups(problem: Problem) -> None:
    floors = [name for name in ("token_floors", "feature_floors") if _any_positive(getattr(problem, name))]
    refused_limits = floors + [name for name in ("token_groups", "feature_groups") if getattr(problem, name)]
    if refused_limits:
        raise UnsupportedProblemError(
            "soft_solve: expected a problem with a budget and caps only, found "
            f"{' and '.join(refused_limits)}; use al.solve"
        )


def _any_positive(limits: Indices | None) -> bool:
    return limits is not None and bool(np.any(limits > 0))


def _checked_temperature(temperature: Any, best: float) -> float:
    heat = number_of(temperature, "temperature", "a positive finite number")
    if heat <= 0:
        raise InvalidProblemError(f"temperature: expected a positive finite number, found {heat}")
    if heat < COLDEST * best:
        raise InvalidProblemError(
            f"temperature: expected at least {COLDEST * best:.3g} beside scores up to {best:.6g}, found {heat:g}; "
            "the limit of temperature 0 is al.solve"
        )
    return heat


def _inner_of(problem: Problem) -> Inner:
    """The problem that is computed on: without the lines that have no edge, where all pairs are too many."""
    tokens, features = problem.shape
    if problem.matrix.dense is not None or tokens * features <= MANY_PAIRS:
        return Inner(problem, None, problem.shape)
    token, feature, scores = problem.matrix.matches(problem.matrix.allowed())
    (used_tokens, row), (used_features, column) = (np.unique(ends, return_inverse=True) for ends in (token, feature))
    limits = {
        "budget": problem.budget,
        "token_caps": None if problem.token_caps is None else problem.token_caps[used_tokens],
        "feature_caps": None if problem.feature_caps is None else problem.feature_caps[used_features],
    }
    shape = (used_tokens.size, used_features.size)
    return Inner(Problem.from_edges(row, column, scores, shape, **limits), (used_tokens, used_features), problem.shape)


def _dense(problem: Problem) -> Array:
    """The scores as a matrix of floats, -inf where there is no edge."""
    if problem.matrix.dense is None:
        try:
            np.empty((MATRICES, *problem.shape))
        except (MemoryError, ValueError):  # NumPy's for sizes beyond memory, and beyond its indices
            size = f"{MATRICES * 8 * math.prod(problem.shape) / 2**30:.3g} GiB"
            raise UnsupportedProblemError(
                "soft_solve: expected candidate edges between so few tokens and features that matrices of all pairs "
                f"fit in memory, found {problem.shape[0]} x {problem.shape[1]} with an edge, which take {size}; "
                "use al.solve"
            ) from None
    scores = problem.scores
    return problem.matrix.spread(scores if scores.dtype == np.float32 else scores.astype(np.float64), -np.inf)


def _caps(problem: Problem) -> Reals:
    """One cap per line: tokens, features, the budget; +inf where there is none."""
    sides = zip((problem.token_caps, problem.feature_caps), problem.shape, strict=True)
    lines = [np.full(size, np.inf) if caps is None else caps.astype(np.float64) for caps, size in sides]
    return np.concatenate([*lines, [np.inf if problem.budget is None else float(problem.budget)]])


def _crossed(lines: Mask, shape: tuple[int, int]) -> Mask:
    """The edges on any of the lines."""
    crossed: Mask = lines[: shape[0], None] | lines[shape[0] : -1] | lines[-1]
    return crossed


def _closing_prices(prices: Reals, closed: Mask, scores: Array, heat: float, form: str) -> Reals:
    """The prices, with those of lines of cap 0: large enough that no share is left, +inf if none is."""
    if not closed.any():
        return prices
    tokens = scores.shape[0]
    left = scores - (prices[:tokens, None] + prices[tokens:-1] + prices[-1])
    best = np.concatenate([left.max(1, initial=-np.inf), left.max(0, initial=-np.inf), [left.max(initial=-np.inf)]])
    needed = np.where(best > -np.inf, np.inf, 0.0) if form == "entropy" else np.maximum(best + heat / 2, 0.0)
    return np.where(closed, needed, prices)
