"""One number against another: optimal value against the budget, soft value against the temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from allocation.arguments import array_of, shown
from allocation.errors import InvalidProblemError
from allocation.plot.canvas import BLUE, INK, ORANGE, SKY, VERMILLION, axes, legend, whole_ticks
from allocation.problem import Problem, checked_problem
from allocation.soft import soft_solve
from allocation.solution import Status
from allocation.solve import solve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Points of a curve; all whole budgets where there are fewer.
POINTS = 40


def value_curve(problem: Problem, budgets: ArrayLike | None = None, ax: Axes | None = None) -> Axes:
    """The optimal total score against the budget: a concave curve whose slope is the budget's price.

    The problem is solved once per budget, each with the prices of the one before; budgets without an answer are left
    out. At the problem's own budget the price is the slope of a tangent, and a wedge holds all optimal prices.

    Parameters
    ----------
    problem : Problem
    budgets : integer vector, optional
        By default up to 40 from 0 to where more budget adds nothing.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import allocation as al
    >>> ax = al.plot.value_curve(al.mutual_choice([[4.0, 3.0, 1.0]], budget=2))
    >>> ax.lines[0].get_ydata()
    array([0., 4., 7., 8.])
    """
    problem = checked_problem(problem)
    worth: dict[int, float] = {}
    prices = None
    for budget in _budgets(problem, budgets):
        solution = solve(_with_budget(problem, budget), throw=False, warm_start=prices)
        if solution.status is not Status.INFEASIBLE:
            worth[budget], prices = solution.objective, solution.prices.without_intervals()
    solved_budgets = np.array(list(worth))
    ax = axes(ax, (6.4, 4.0))
    marker = "o" if solved_budgets.size <= 2 * POINTS else ""
    values = list(worth.values())
    ax.plot(solved_budgets, values, color=BLUE, linewidth=2, marker=marker, markersize=3, label="optimal value")
    if problem.budget in worth:
        at_own_budget = solve(problem)  # without the neighbours' prices: the ones that the caller sees
        price, height = at_own_budget.prices.budget, at_own_budget.objective
        reach = max(0.25 * float(np.ptp(solved_budgets)), 1.0)
        run = np.array([-reach, 0.0, reach])
        upper = price.upper if np.isfinite(price.upper) else price.value
        wedge = height + price.lower * run, height + upper * run
        ax.fill_between(problem.budget + run, *wedge, color=ORANGE, alpha=0.35, linewidth=0)
        slope = f"price {price.value:.4g}, the slope"
        ax.plot(problem.budget + run, height + price.value * run, color=VERMILLION, label=slope)
        ax.plot(problem.budget, height, "o", color=VERMILLION, ms=7, label=f"budget {problem.budget:,}")
    ax.set(xlabel="budget", ylabel="total score")
    whole_ticks(ax, "x")
    legend(ax)
    return ax


def soft_to_exact(
    problem: Problem, temperatures: ArrayLike | None = None, form: str = "entropy", ax: Axes | None = None
) -> Axes:
    """The soft problem as its temperature falls: `objective` and `value` close in on the exact optimum.

    Parameters
    ----------
    problem : Problem
        With a budget and caps, as `soft_solve` takes them.
    temperatures : vector, optional
        By default 16 from twice the spread of the scores down to a thousandth of it.
    form : {"entropy", "clipped"}
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import allocation as al
    >>> ax = al.plot.soft_to_exact(al.mutual_choice([[4.0, 3.0, 1.0]], budget=2))
    >>> ax.get_xscale(), ax.get_xlabel()
    ('log', 'temperature, falling')
    """
    problem = checked_problem(problem)
    if temperatures is None:
        finite = problem.scores[problem.scores > -np.inf].astype(np.float64)
        spread = float(finite.std()) if finite.size else 0.0
        temperatures = (spread or 1.0) * np.geomspace(2.0, 1e-3, 16)
    given = array_of(temperatures, "temperatures", "positive numbers")
    if given.dtype.kind not in "iuf" or not given.size:
        raise InvalidProblemError(f"temperatures: expected positive numbers, found {shown(temperatures)}")
    heats = sorted(given.ravel().tolist(), reverse=True)
    soft = [soft_solve(problem, heat, form) for heat in heats]
    above, below = np.array([s.value for s in soft]), np.array([s.objective for s in soft])
    exact = solve(problem).objective
    ax = axes(ax, (6.4, 4.0))
    ax.fill_between(heats, below, above, color=SKY, alpha=0.25, linewidth=0)
    ax.plot(heats, above, color=ORANGE, linewidth=2, marker="o", ms=3.5, label="soft value")
    ax.plot(heats, below, color=BLUE, linewidth=2, marker="o", ms=3.5, label="score of the shares")
    ax.axhline(exact, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label=f"exact optimum {exact:.6g}")
    ax.set(xscale="log", xlabel="temperature, falling", ylabel="total score")
    ax.invert_xaxis()
    legend(ax)
    return ax


def _with_budget(problem: Problem, budget: int | None) -> Problem:
    """The same limits with another budget."""
    sides = (problem.token_caps, problem.token_floors, problem.feature_caps, problem.feature_floors)
    return Problem(problem.matrix, budget, *sides, problem.token_groups, problem.feature_groups)


def _budgets(problem: Problem, budgets: ArrayLike | None) -> list[int]:
    """Ascending budgets: those asked for, or evenly spread ones up to a little beyond where more adds nothing."""
    if budgets is not None:
        given = array_of(budgets, "budgets", "whole numbers")
        if given.dtype.kind not in "iuf" or not given.size:
            raise InvalidProblemError(f"budgets: expected whole numbers, found {shown(budgets)}")
        return sorted(set(given.ravel().tolist()))
    most = solve(_with_budget(problem, None)).tokens.size
    spread = np.linspace(0, max(most, problem.budget or 0), POINTS).round().astype(np.int64)
    return sorted({*spread.tolist(), *([] if problem.budget is None else [problem.budget])})
