"""Exact top-selection: a budget, and caps on the tokens or on the features. The package says in which steps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from allocation.arguments import in_memory
from allocation.arrays import Indices, Mask, Reals
from allocation.cuda.scores import DeviceScores
from allocation.problem import Problem, checked_problem
from allocation.scores import DenseScores, reals_at
from allocation.solution import Price, Prices, Real, Solution, counts_of, no_price
from allocation.solvers.base import Options
from allocation.solvers.top_selection.lines import select_columns, select_rows
from allocation.solvers.top_selection.ranking import Ends, Selection, finish
from allocation.solvers.top_selection.thresholds import LARGE_SHARE, select_much
from allocation.solvers.top_selection.whole import select_whole

# Expected prices are lowered by this share, so that they may fall a little before the hint fails: for the whole matrix,
# whose price falls by up to a twentieth from one step of training to the next, for rows, and for columns, whose few
# matches make their prices jump from batch to batch.
HINT_SLACK = {None: 1 / 16, 0: 1 / 64, 1: 1 / 32}


@dataclass(frozen=True)
class TopSelection:
    """The best matches under a budget and caps on one side: one search for a price per group.

    ::

        maximise sum_ij S_ij A_ij   subject to   sum_ij A_ij <= budget   and either
                 sum_j A_ij <= token_caps_i   or   sum_i A_ij <= feature_caps_j

    The caps and the budget are one laminar family, so taking the best of every group and then the best of those is
    optimal (the greedy algorithm on a laminar matroid, Edmonds 1971). Cost: about two reads of the scores.

    Ties go to the larger score, then the smaller token, then the smaller feature.

    Examples
    --------
    >>> import allocation as al
    >>> problem = al.Problem([[4, 3, 1], [5, 0, 2]], budget=3, token_caps=2)
    >>> al.solve(problem, al.TopSelection()).mask().astype(int)
    array([[1, 1, 0],
           [1, 0, 0]])
    """

    def refusal(self, problem: Problem) -> str | None:
        """Why this solver does not solve `problem`, or None if it does."""
        if problem.token_floors is not None or problem.feature_floors is not None:
            return "TopSelection knows no floors"
        if problem.token_groups or problem.feature_groups:
            return "TopSelection knows no groups"
        if problem.token_caps is not None and problem.feature_caps is not None:
            return "TopSelection takes caps on tokens or on features, not on both"
        return None

    def localise(self, problem: Problem) -> Problem:
        """As it is: selections run where the scores are."""
        return problem

    def solve(self, problem: Problem, options: Options) -> Solution:
        """The optimum of `problem`, which must not be refused."""
        checked_problem(problem)
        if problem.matrix.on_device:
            return _on_device(problem, options)
        started = time.perf_counter()
        axis, caps = capped_side(problem)
        if takes_much(problem, axis, caps, options):
            much = select_much(cast(DenseScores, problem.matrix), axis, caps, options.workers)
            prices = prices_of_ends(problem, axis, much.ends, much.ends, much.matches.values.size, much.full)
            return Solution.optimal(
                problem, much.matches, prices, {"passes": 3, "seconds": time.perf_counter() - started}
            )
        best = _select(problem, axis, np.minimum(caps, problem.matrix.n_edges), options)
        chosen = best if axis is None or problem.budget is None else _within_budget(problem, best, problem.budget)
        tokens, features, values = problem.matrix.matches(chosen.flat)
        full = None if axis is None else counts_of((tokens, features)[axis], caps.size) == caps
        before = _ends(problem, best)
        after = before if chosen is best else _ends(problem, chosen)
        prices = prices_of_ends(problem, axis, before, after, len(values), full)
        stats: dict[str, Any] = {"passes": best.passes, "seconds": time.perf_counter() - started}
        if best.reaching is not None:  # says how good the warm start was
            stats["reaching"] = best.reaching
        return Solution.optimal(problem, (tokens, features, values), prices, stats)


def capped_side(problem: Problem) -> tuple[int | None, Indices]:
    """The side that has caps, 0 for tokens and 1 for features, with the caps; else None with the budget."""
    if problem.token_caps is not None:
        return 0, problem.token_caps
    if problem.feature_caps is not None:
        return 1, problem.feature_caps
    return None, np.array([problem.matrix.n_edges if problem.budget is None else problem.budget])


def takes_much(problem: Problem, axis: int | None, caps: Indices, options: Options) -> bool:
    """Whether so many entries are taken that bits are smaller than positions."""
    matrix = problem.matrix.dense
    if matrix is None or not matrix.n_edges:
        return False
    if axis is not None and (problem.budget is not None or (axis == 1 and options.warm_start is not None)):
        return False  # a budget beside caps ranks what these left; a warm start of columns asks how many reach it
    wanted = np.minimum(caps, matrix.n_edges if axis is None else matrix.shape[1 - axis]).sum()
    return bool(wanted >= LARGE_SHARE * matrix.n_edges)


def _select(problem: Problem, axis: int | None, caps: Indices, options: Options) -> Selection:
    """The top of every group, whatever the budget. Positions are the ids of edges."""
    entries = problem.matrix.entries
    if (matrix := problem.matrix.dense) is None:
        positive = np.flatnonzero(entries > 0)
        groups = None if axis is None else problem.matrix.ends(positive)[axis]
        return finish(entries[positive], positive, groups, np.minimum(caps, entries.size))
    below = just_below_prices(matrix, axis, options.warm_start)
    hint = None if below is None else matrix.encoded(below)
    if axis is None:
        return select_whole(matrix.ordered, int(caps[0]), options.workers, hint)
    select = select_columns if axis else select_rows
    return select(matrix.ordered, caps, options.workers, hint)


def just_below_prices(matrix: DenseScores, axis: int | None, warm_start: Prices | None) -> Reals | None:
    """What an entry had to exceed in a similar problem, lowered a little: one value, or one per group."""
    expected = prices_to_exceed(matrix.shape, axis, warm_start)
    return None if expected is None else expected * (1 - HINT_SLACK[axis])


def prices_to_exceed(shape: tuple[int, int], axis: int | None, warm_start: Prices | None) -> Reals | None:
    """What an entry had to exceed in a similar problem: one value, or one per group; None if it is of another shape."""
    if warm_start is None:
        return None
    expected = np.asarray(warm_start.budget.value, np.float64)
    if axis is not None:
        expected = np.asarray(expected + (warm_start.tokens, warm_start.features)[axis].value)
        if expected.shape != (shape[axis],):
            return None
    return expected


def _within_budget(problem: Problem, best: Selection, budget: int) -> Selection:
    """The best `budget` of what the groups took."""
    entries = problem.matrix.entries
    return finish(entries[best.flat], best.flat, None, np.array([min(budget, best.flat.size)]), best.passes)


def _on_device(problem: Problem, options: Options) -> Solution:
    """The same steps where the scores are: the top of every group, then the best of what they took."""
    started = time.perf_counter()
    matrix = cast(DeviceScores, problem.matrix)
    axis, caps = capped_side(problem)
    below = just_below_prices(matrix, axis, options.warm_start)
    flat, *ends = matrix.top(axis, caps, expected=None if below is None else np.atleast_1d(below))
    best = chosen = Ends(*ends)
    if axis is not None and problem.budget is not None:
        within, *ends = matrix.at(flat).top(None, np.array([problem.budget]))
        flat, chosen = flat[within], Ends(*ends)
    matches = matrix.matches(flat)
    full = None if axis is None else in_memory(counts_of(matches[axis], caps.size)) == caps
    prices = prices_of_ends(problem, axis, best, chosen, len(matches[0]), full)
    stats = {"engine": matrix.engine.name, "seconds": time.perf_counter() - started}
    return Solution.optimal(problem, matches, prices, stats)


def _ends(problem: Problem, selection: Selection) -> Ends:
    return Ends(reals_at(problem.matrix, selection.last, np.inf), reals_at(problem.matrix, selection.refused, 0.0))


def prices_of_ends(
    problem: Problem, axis: int | None, best: Ends, chosen: Ends, n_matches: int, full: Mask | None
) -> Prices:
    """Prices and intervals from the ends of every group, `best` before the budget and `chosen` with it.

    `full` are the groups that reach their cap.

    With lam the budget's price and next_g the first score that group g refuses, a group at its cap costs
    max(next_g - lam, 0). One more unit for g displaces the worst match of all if the budget is reached; one less makes
    room for the best match that the budget refused.
    """
    tokens, features = problem.shape
    reached = problem.budget is not None and n_matches == problem.budget
    worst = float(chosen.last[0]) if reached else 0.0
    dropped = float(chosen.refused[0]) if reached else 0.0
    lam = dropped
    budget = Price(lam, (lam, worst)) if problem.budget is not None else no_price()
    if axis is None or full is None:
        return Prices(budget, no_price(tokens), no_price(features), no_price(0), no_price(0))

    refused = np.where(full, best.refused, 0.0)

    def bounds() -> tuple[Real, Real]:
        # a full group kept all it took, so its last is the one it had before the budget
        last = np.where(full, best.last, 0.0)
        lower = np.maximum(refused - worst, 0.0)
        return np.where(full, lower, 0.0), np.where(full, last - dropped, 0.0)

    group_price = Price(np.maximum(refused - lam, 0.0), bounds)
    sides = [no_price(tokens), no_price(features)]
    sides[axis] = group_price
    return Prices(budget, sides[0], sides[1], no_price(0), no_price(0))
