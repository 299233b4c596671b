"""Whether an allocation is feasible, and whether its prices prove that none is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allocation.arguments import array_of, shown
from allocation.certificate.comparisons import by_comparison
from allocation.certificate.edges import refused_blocks
from allocation.certificate.last_bits import EPS, UNITS, LastBits
from allocation.certificate.limits import SHOWN, all_integer, idle, limits_of, price_sums
from allocation.certificate.open_edges import open_edges
from allocation.certificate.parts import Claim, claimed
from allocation.errors import InvalidProblemError, UnsupportedProblemError
from allocation.notebook import card
from allocation.problem import Problem, checked_problem
from allocation.ranks import Ranks, checked_ranks
from allocation.rough import Rough
from allocation.solution import Prices, Solution, checked_prices

# A tolerance that is a larger share of the objective and of a path of scores proves nothing.
_LOOSEST = 1e-6
# What a solution must have.
_ANSWER = ("tokens", "features", "values", "prices")


@dataclass(frozen=True)
class Certificate:
    """The verdict on a solution.

    Attributes
    ----------
    optimal : bool
        Feasible, prices consistent, and no allocation is better by more than `tolerance`.
    gap : float
        Dual objective minus primal objective: no allocation beats this one by more. Infinite if infeasible.
    tolerance : float
        The rounding bound of this check. 0 for integer scores within +-2^50, which is all that problems with floors,
        groups or caps on both sides take; where order alone proves the matches; and where float64 held every sum that
        decides, so that no allocation is better at all.
    violations : tuple of str
        Each violated condition, with indices.
    """

    optimal: bool
    gap: float
    tolerance: float
    violations: tuple[str, ...]

    def _repr_html_(self) -> str:
        violated = [("violated", violation) for violation in self.violations[:SHOWN]]
        if len(self.violations) > SHOWN:
            violated.append(("", f"and {len(self.violations) - SHOWN:,} more"))
        rows = [
            ("optimal", "yes" if self.optimal else "no"),
            ("gap", f"{self.gap:.6g}"),
            ("tolerance", f"{self.tolerance:.6g}"),
            *violated,
        ]
        return card("Certificate", rows, "No allocation is better by more than the gap.")


def verify(problem: Problem, solution: Solution, ranks: Ranks | None = None) -> Certificate:
    """Check a solution against the optimality conditions of its problem, in one or two passes over the edges.

    ::

        feasible A,  r_ij = S_ij - lam - mu_i - nu_j - sum gamma_g - sum delta_h,   r >= 0 where A_ij = 1, else r <= 0,
        prices positive only where a cap is reached, negative only where a floor is

    Feasibility is checked in integers. With limits on one side and no floors or groups, optimality is also checked by
    comparing scores with scores, without tolerance. Otherwise the gap is summed exactly and compared with a stated
    rounding bound.

    Parameters
    ----------
    problem : Problem
    solution : Solution
        Or any object with ``tokens``, ``features``, ``values`` and ``prices``.
    ranks : Ranks, optional
        The processes that hold the parts of the problem and of the solution: each calls `verify` with its own.

    Returns
    -------
    Certificate
        Of the whole; with `ranks` the same on every rank.

    Source: complementary slackness; Schrijver 2003, *Combinatorial Optimization*, chapters 5 and 41.

    Examples
    --------
    >>> import allocation as al
    >>> problem = al.token_choice([[2, 1], [0, 3]], k=1)
    >>> al.verify(problem, al.solve(problem))
    Certificate(optimal=True, gap=0.0, tolerance=0.0, violations=())
    """
    claim = claimed(lambda: _checked(problem, solution, ranks), None if ranks is None else checked_ranks(ranks))
    if not isinstance(claim, Claim):
        return Certificate(False, math.inf, 0.0, tuple(claim))
    return _judged(claim)


def _judged(claim: Claim) -> Certificate:
    """The verdict on a claim whose matches are edges."""
    problem, tokens, features, prices = claim.problem, claim.tokens, claim.features, claim.prices
    violations: list[str] = []
    limits = list(limits_of(problem, tokens, features, prices))
    for limit in limits:
        violations += limit.violations()
    if any(limit.senseless.any() for limit in limits):
        return Certificate(False, math.inf, 0.0, tuple(violations))
    feasible = not any(limit.is_broken() for limit in limits)
    (row_price, row_size, rows_held), (column_price, column_size, columns_held) = price_sums(problem, prices)
    selected = claim.selected
    largest = row_size.max(initial=0.0) + column_size.max(initial=0.0) + np.abs(selected).max(initial=0.0)
    exact_sums = problem.matrix.is_integer and all_integer(selected, limits) and bool(largest < 2**53)

    terms = [row_price[tokens], column_price[features]]
    reduced = selected - terms[0] - terms[1]
    bound = UNITS * EPS * (np.abs(selected) + row_size[tokens] + column_size[features])
    bound = np.zeros_like(bound) if exact_sums else bound
    cheap = np.flatnonzero(reduced < -bound)
    if cheap.size:
        violations.append(
            f"{cheap.size} selected match(es) cost more than they score, such as token {tokens[cheap[0]]}, feature "
            f"{features[cheap[0]]}: {selected[cheap[0]]:.6g} is {-reduced[cheap[0]]:.3g} below its prices"
        )
    exchange = by_comparison(claim)
    last_bits = of_block = None
    if not exact_sums and exchange is None:
        last_bits, of_block = (
            LastBits(largest, (row_price, column_price), (rows_held, columns_held)) for _ in range(2)
        )
        last_bits.add(tokens, features, selected, -reduced)
    profits: list[float] = []
    loosened = 0.0
    missed: list[str] = []
    for block in refused_blocks(claim.block, *claim.own, claim.first):
        spent = row_price[block.tokens] + column_price[block.features]
        profit = block.scores - spent
        better = np.nonzero(profit > 0)
        if of_block is not None and of_block.exact:
            near = np.nonzero(profit >= -of_block.reach)
            at, to = (np.broadcast_to(end, profit.shape)[near] for end in (block.tokens, block.features))
            of_block.add(at, to, block.scores[near], profit[near])
        found = profit[better]
        ends = [np.broadcast_to(end, profit.shape)[better] for end in (block.tokens, block.features)]
        size = np.abs(block.scores[better]) + row_size[ends[0]] + column_size[ends[1]]
        slack = np.zeros_like(found) if exact_sums else UNITS * EPS * size
        profits += found.tolist()
        loosened += float(slack.sum())
        wrong = found > slack
        if wrong.any() and len(missed) < SHOWN:
            most = int(np.argmax(np.where(wrong, found, 0.0)))
            missed.append(
                f"{int(wrong.sum())} refused match(es) score above their prices, the most token {ends[0][most]}, "
                f"feature {ends[1][most]}: by {found[most]:.3g}"
            )
    profits = claim.exactly(profits) + np.maximum(reduced, 0.0).tolist()
    tolerance = float(bound.sum()) + float(claim.of_all(np.array([loosened])).sum())
    violations += claim.texts(missed) + idle(limits, tokens, features, selected, problem)
    due = [pair for limit in limits for pair in limit.due()]
    if exact_sums:  # a count times a price may need more bits than a float64 has
        gap = float(sum(count * int(price) for count, price in due) + sum(map(int, profits)) - sum(map(int, selected)))
    else:
        dual_terms = [count * price for count, price in due]
        gap = math.fsum(dual_terms + profits + (-selected).tolist())
        tolerance += UNITS * EPS * math.fsum(map(abs, dual_terms))
    if abs(gap) > tolerance and feasible and not violations:
        violations.append(f"the prices leave a gap of {gap:.6g} to the objective")
    elif not violations and tolerance > _LOOSEST * np.abs(selected).sum() and tolerance > _LOOSEST * claim.size:
        violations.append(
            f"the prices are so far beyond the scores that rounding in them hides a gap of {tolerance:.3g}"
        )
    if last_bits is not None and of_block is not None and last_bits.joined(of_block, claim).prove() and not violations:
        gap, tolerance = 0.0, 0.0
    if exchange is not None:
        violations += exchange
        if not exchange and not violations:
            gap, tolerance = 0.0, 0.0  # proved by comparisons alone, which float64 makes exactly
    return Certificate(not violations, gap if feasible else math.inf, tolerance, tuple(violations))


def _checked(
    problem: Any, solution: Any, ranks: Ranks | None
) -> tuple[Problem, tuple[NDArray[Any], NDArray[Any], NDArray[Any]], Prices]:
    """The arguments in main memory."""
    checked_problem(problem, with_ranks=ranks is not None)
    if not all(hasattr(type(solution), name) or hasattr(solution, name) for name in _ANSWER):
        raise InvalidProblemError(f"solution: expected {', '.join(_ANSWER)}, found {shown(solution)}")
    if ranks is not None and problem.matrix.not_in_parts is not None:
        raise UnsupportedProblemError(problem.matrix.not_in_parts)
    problem = problem.on_host()
    tokens, features, values = (_answer(solution, name) for name in ("tokens", "features", "values"))
    prices = _checked_prices(problem, solution.prices)
    if isinstance(problem.matrix, Rough):
        sums = [total for total, _, _ in price_sums(problem, prices)]
        problem = open_edges(problem, problem.matrix, tokens, features, sums)
    return problem, (tokens, features, values), prices


def _answer(solution: Any, name: str) -> NDArray[Any]:
    """One part of the matches in main memory."""
    array = array_of(getattr(solution, name), f"solution.{name}", "a vector")
    if array.size == 0 and name != "values":
        array = array.astype(np.int64)
    if array.dtype.kind not in ("iuf" if name == "values" else "iu"):
        wanted = "numbers" if name == "values" else "integers"
        raise InvalidProblemError(f"solution.{name}: expected {wanted}, found dtype {array.dtype}")
    return array if name == "values" else array.astype(np.int64)


def _checked_prices(problem: Problem, given: Any) -> Prices:
    """The prices in main memory: a number for each limit of a block; one for all will do for tokens and features."""
    prices = checked_prices(given, "solution.prices")
    sizes = {"tokens": problem.shape[0], "features": problem.shape[1]}
    sizes |= {"token_groups": len(problem.token_groups), "feature_groups": len(problem.feature_groups)}
    for name, size in sizes.items():
        found = np.shape(getattr(prices, name).value)
        if found != (size,) and (found != () or name.endswith("groups")):
            raise InvalidProblemError(f"solution.prices.{name}.value: expected {size} numbers, found shape {found}")
    return prices
