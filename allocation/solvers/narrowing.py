"""Rough scores: any solver, on the few edges that the bounds leave open.

1. Solve for the approximate scores: their prices say where the exact ones will lie.
2. Ask for the exact scores of every edge whose upper bound reaches a little less than those prices.
3. Solve on these edges alone. An edge left out has an upper bound below its prices, so that by linear programming
   duality, for the exact scores too, no optimum needs it.
4. Where a price came out below what step 2 supposed, ask for the edges in between and go on with 3.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import cast

import numpy as np

from allocation.arrays import Array, Indices, Reals
from allocation.errors import NotCertifiedError
from allocation.problem import Problem
from allocation.rough import Rough
from allocation.scores import EdgeScores, Scores
from allocation.solution import Price, Prices, Real, Solution
from allocation.solvers.base import Options, Solver
from allocation.solvers.guess import guessed
from allocation.solvers.known import Known
from allocation.solvers.reach import Reach, Thresholds
from allocation.solvers.top_selection import TopSelection


def narrowed(problem: Problem, solver: Solver, options: Options) -> Solution:
    """The optimum for the exact scores of a problem whose matrix is `Rough`."""
    started = time.perf_counter()
    rough = cast(Rough, problem.matrix)
    guess = guessed(problem, solver, options)
    only_positive = not problem.has_floors
    expected = Thresholds.of(problem, guess.prices).lowered(rough)
    known, reach = Known.of(rough), Reach.of(rough)
    before = known.ids.size
    known.ask(rough, known.unknown(reach.ids_from(rough, expected, only_positive, options.workers)))
    # what floors force, whatever it costs, is among the matches of the guess: with it the edges allow an answer
    known.ask(rough, known.unknown(guess.tokens * problem.shape[1] + guess.features))

    def solved(edges: EdgeScores) -> tuple[Solution, Thresholds]:
        solution = solver.solve(problem.with_scores(edges), _remaining(options, guess.prices, started))
        return solution, Thresholds.of(problem, solution.prices)

    solution, rounds = _settled(rough, expected, solved, only_positive, options.workers)
    if TopSelection().refusal(problem) is not None:
        solution = dataclasses.replace(solution, _prices=_with_all_edges(solution.prices, problem, solver, options))
    stats = {
        **guess.stats,
        **solution.stats,
        "evaluated": known.ids.size - before,
        "rounds": rounds,
        "seconds": time.perf_counter() - started,
    }
    return dataclasses.replace(solution, stats=stats)


def contenders(rough: Rough, wanted: Indices, by_column: bool, lower: Reals) -> tuple[Indices, Array]:
    """Ascending ids, and exact scores, of all that may be among the best `wanted` of each column, or of the matrix.

    Only what scores `lower` or more counts, which is one number, or one a column. The steps are those of `narrowed`.
    """
    limits = {"feature_caps": wanted} if by_column else {"budget": int(wanted[0])}
    problem = Problem(rough.approximate, **limits)
    counting = Thresholds(np.full(rough.shape[0], 0.0 if by_column else lower[0]), lower if by_column else np.zeros(1))

    def solved(edges: Scores) -> tuple[Solution, Thresholds]:
        solution = TopSelection().solve(problem.with_scores(edges), Options())
        return solution, Thresholds.of(problem, solution.prices).raised(counting)

    expected = solved(rough.approximate)[1].lowered(rough)
    known = Known.of(rough)
    known.ask(rough, known.unknown(Reach.of(rough).ids_from(rough, expected, True)))
    _settled(rough, expected, solved, only_positive=True)
    assert known.values is not None
    positive = known.values > 0
    return known.ids[positive], known.values[positive]


def _settled(
    rough: Rough,
    expected: Thresholds,
    solved: Callable[[EdgeScores], tuple[Solution, Thresholds]],
    only_positive: bool,
    workers: int | None = None,
) -> tuple[Solution, int]:
    """Solve on the known edges and ask for those that the prices found leave open, until there are none; and rounds.

    At first the edges that reach `expected` are known.
    """
    known = Known.of(rough)
    asked = [expected]  # each alone says which edges are known; the lowest of two would claim more
    while True:
        solution, found = solved(known.edges(rough))
        if any(found.cover(one) for one in asked):
            return solution, len(asked)
        missing = known.unknown(Reach.of(rough).ids_from(rough, found, only_positive, workers))
        if not missing.size:
            return solution, len(asked)
        known.ask(rough, missing)
        asked.append(found)


def _remaining(options: Options, prices: Prices, started: float) -> Options:
    """Options of the next solve: it starts from what is known, and has the time that is left."""
    left = options.max_seconds
    if left is not None:
        left = max(0.0, left - (time.perf_counter() - started))
        if left == 0 and options.max_seconds:
            raise NotCertifiedError(f"stopped after max_seconds={options.max_seconds:g} before all bounds were decided")
    return Options(prices.without_intervals(), options.workers, left)


def _with_all_edges(prices: Prices, problem: Problem, solver: Solver, options: Options) -> Prices:
    """The same prices; their intervals, which edges left out may bound, from every exact score when first asked for."""
    whole: list[Prices] = []

    def bounds(name: str) -> Callable[[], tuple[Real, Real]]:
        def of_all() -> tuple[Real, Real]:
            if not whole:
                exact = problem.with_scores(problem.matrix.array)
                whole.append(solver.solve(exact, dataclasses.replace(options, warm_start=None)).prices)
            price: Price = getattr(whole[0], name)
            return price.lower, price.upper

        return of_all

    return Prices(**{name: Price(price.value, bounds(name)) for name, price in vars(prices).items()})
