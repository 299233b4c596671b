"""Where the exact prices of rough scores will lie, from one pass that keeps the few edges near an expected price.

Nothing hangs on a guess being right: it only says which exact scores to ask for first.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np

from allocation.arrays import Indices, Reals
from allocation.errors import InfeasibleError
from allocation.problem import Problem
from allocation.rough import Rough
from allocation.scores import EdgeScores
from allocation.solution import Prices, Solution
from allocation.solvers.base import Options, Solver
from allocation.solvers.reach import MARGIN, Reach, Thresholds
from allocation.solvers.top_selection.whole import SAMPLE, sampled_bracket
from allocation.threads import map_blocks, rows_per_block

# Share by which a price may fall from one problem to the next, and passes after which expectations are given up.
FALL, ROUNDS = 1 / 16, 3
# Blocks of tokens whose maxima stand for the best scores of a feature, and the largest floor for which they do.
BLOCKS, MOST = 32, 4


def guessed(problem: Problem, solver: Solver, options: Options) -> Solution:
    """The answer for the approximate scores."""
    rough = cast(Rough, problem.matrix)
    lowest = _expected(problem, options.warm_start, options.workers)
    for _ in range(ROUNDS if lowest is not None else 0):
        assert lowest is not None
        guess = _near(problem, solver, options, lowest)
        if guess is None:
            break
        found = Thresholds.of(problem, guess.prices).lowered(rough)
        if found.cover(lowest):
            return guess
        lowest = lowest.sunk_to(found)
    return solver.solve(problem.with_scores(rough.approximate), options)


def _near(problem: Problem, solver: Solver, options: Options, lowest: Thresholds) -> Solution | None:
    """The answer on the edges that reach thresholds; None where those are too few."""
    rough = cast(Rough, problem.matrix)
    reach = Reach.of(rough)
    mask = reach.mask_from(rough, lowest, workers=options.workers)
    ids = reach.ids[mask]
    if problem.budget is not None and ids.size <= problem.budget:
        return None
    edges = EdgeScores(*rough.ends(ids), reach.near[mask], rough.shape, "float64")
    try:
        return solver.solve(problem.with_scores(edges), dataclasses.replace(options, warm_start=None))
    except InfeasibleError:  # for want of edges, perhaps
        return None


def _expected(problem: Problem, warm_start: Prices | None, workers: int | None) -> Thresholds | None:
    """What is very likely a little less than the prices; None where that is not known for so little."""
    limits_of_tokens = (problem.token_caps, problem.token_floors, problem.token_groups or None)
    if any(limit is not None for limit in limits_of_tokens) or problem.feature_groups or not problem.matrix.n_edges:
        return None
    rough = cast(Rough, problem.matrix)
    if problem.feature_caps is not None:
        if problem.feature_floors is not None or problem.budget is not None or warm_start is None:
            return None
        if np.shape(warm_start.features.value) != (problem.shape[1],):
            return None
        return Thresholds(np.zeros(problem.shape[0]), np.array(warm_start.features.value, np.float64)).lowered(rough)
    price = _budget_price(problem, rough, warm_start)
    if price is None:
        return None
    lowest = Thresholds(np.full(problem.shape[0], price), np.zeros(problem.shape[1])).lowered(rough, 2 * MARGIN)
    if problem.feature_floors is not None:
        below_floors = _with_floors(lowest, rough, problem.feature_floors, workers)
        if below_floors is None:
            return None
        lowest = below_floors
    if warm_start is None or np.shape(warm_start.features.value) != (problem.shape[1],):
        return lowest
    expected = np.asarray(warm_start.features.value) + float(warm_start.budget.value)
    return lowest.sunk_to(Thresholds(np.zeros(problem.shape[0]), expected))


def _budget_price(problem: Problem, rough: Rough, warm_start: Prices | None) -> float | None:
    """Below the budget's price, as a sample has it, or not far below the one expected. Floors only raise it."""
    if problem.budget is None or rough.n_edges <= SAMPLE:
        return None
    entry = sampled_bracket(rough.approximate.entries, problem.budget)[0]
    price = float(rough.approximate.widened(np.array([entry]))[0])
    if warm_start is not None and np.ndim(warm_start.budget.value) == 0:
        price = max(price, (1 - FALL) * float(warm_start.budget.value))
    return price


def _with_floors(lowest: Thresholds, rough: Rough, floors: Indices, workers: int | None) -> Thresholds | None:
    """Lower for features that might not meet their floor otherwise: below the first score that it leaves out."""
    if floors.max() > MOST or rough.shape[0] < BLOCKS * (MOST + 1):
        return None
    best = _best_of_blocks(rough, workers)
    if best.shape[0] <= floors.max():
        return None
    left_out = np.sort(best, axis=0)[-1 - floors, np.arange(floors.size)].astype(np.float64)
    few = np.flatnonzero(left_out <= 0)
    step = rows_per_block(rough.shape[0])
    for some in (few[start : start + step] for start in range(0, few.size, step)):
        lines = np.sort(rough.approximate.lines(1, some), axis=1)
        left_out[some] = lines[np.arange(some.size), -1 - floors[some]]
    errors = np.median(rough.per_token) * rough.per_feature + rough.relative * np.abs(left_out)
    return Thresholds(lowest.tokens, np.minimum(0.0, left_out - 2 * MARGIN * errors - lowest.tokens.max()))


def _best_of_blocks(rough: Rough, workers: int | None) -> Reals:
    """The best score of every feature in each of some blocks of tokens; of different tokens, so never too many."""
    near = rough.approximate
    rows = -(-rough.shape[0] // BLOCKS)

    def best(start: int, stop: int) -> Reals:
        return np.asarray(near.ordered[start:stop].max(axis=0))

    block = rows * near.array.nbytes // rough.shape[0]
    return np.asarray(near.widened(np.stack(map_blocks(best, rough.shape[0], near.array.nbytes, workers, block))))
