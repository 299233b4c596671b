"""The same problem as arrays for `scipy.optimize.linprog`, and the reference solver built on them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allocation.arguments import matches_in_words
from allocation.arrays import Indices
from allocation.certificate import verify
from allocation.errors import InfeasibleError, NotCertifiedError
from allocation.problem import Problem, checked_problem
from allocation.solution import Price, Prices, Real, Solution
from allocation.solvers.base import Options, in_main_memory
from allocation.solvers.idle import needed
from allocation.solvers.programme import BLOCKS, ProgramArrays
from allocation.solvers.work_limit import WorkLimit


def to_linear_program(problem: Problem) -> ProgramArrays:
    """The linear programme whose vertices are exactly the integral allocations.

    ::

        minimise -sum_e S_e x_e   subject to   A_ub x <= b_ub,   0 <= x_e <= 1

    Price of a cap row: minus its marginal. Price of a floor row: plus its marginal.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    ProgramArrays

    Examples
    --------
    >>> import allocation as al
    >>> from scipy.optimize import linprog
    >>> program = al.to_linear_program(al.mutual_choice([[2.0, 1.0]], budget=1))
    >>> linprog(program.c, program.A_ub, program.b_ub, bounds=program.bounds).fun
    -2.0
    """
    from scipy.sparse import csr_array

    matrix = checked_problem(problem).on_host().matrix
    tokens, features, scores = matrix.matches(matrix.allowed())
    rows: list[tuple[str, int, Indices, int, int]] = []
    if problem.budget is not None:
        rows.append(("budget", 0, np.arange(tokens.size), 1, problem.budget))
    for block, ends, caps, floors in (
        ("tokens", tokens, problem.token_caps, problem.token_floors),
        ("features", features, problem.feature_caps, problem.feature_floors),
    ):
        for sign, limits in ((1, caps), (-1, floors)):
            if limits is not None:
                order = np.argsort(ends, kind="stable")
                parts = np.split(order, np.cumsum(np.bincount(ends, minlength=limits.size))[:-1])
                rows += [(block, i, part, sign, int(limits[i])) for i, part in enumerate(parts[: limits.size])]
    for block, ends, groups in (
        ("token_groups", tokens, problem.token_groups),
        ("feature_groups", features, problem.feature_groups),
    ):
        for number, group in enumerate(groups):
            part = np.flatnonzero(np.isin(ends, group.members))
            for sign, limit in ((1, group.cap), (-1, group.floor)):
                if limit is not None:
                    rows.append((block, number, part, sign, limit))
    row_of = np.repeat(np.arange(len(rows)), [part.size for _, _, part, _, _ in rows])
    edge_of = np.concatenate([part for _, _, part, _, _ in rows]) if rows else np.empty(0, np.int64)
    signs = np.array([sign for *_, sign, _ in rows], np.int64)
    entries = (signs[row_of].astype(np.float64), (row_of, edge_of))
    return ProgramArrays(
        c=-scores.astype(np.float64),
        A_ub=csr_array(entries, shape=(len(rows), tokens.size)),
        b_ub=np.array([sign * min(limit, tokens.size + 1) for *_, sign, limit in rows], np.float64),
        bounds=(0.0, 1.0),
        tokens=tokens,
        features=features,
        blocks=np.array([block for block, *_ in rows], np.str_),
        members=np.array([number for _, number, *_ in rows], np.int64),
        signs=signs,
    )


@dataclass(frozen=True)
class LinearProgram:
    """Every constraint, by SciPy's HiGHS: the reference for small problems.

    ::

        maximise sum_ij S_ij A_ij   subject to all limits, groups and floors

    The simplex method ends in a vertex, which is integral for laminar limits (Edmonds 1970). The answer is returned
    only with a certificate. Ties are broken as HiGHS likes.

    Examples
    --------
    >>> import allocation as al
    >>> al.solve(al.balanced_choice([[1.0, 2.0]], feature_floors=1), al.LinearProgram()).features
    array([0, 1])
    """

    def refusal(self, problem: Problem) -> str | None:
        """Every problem is accepted."""
        return None

    def localise(self, problem: Problem) -> Problem:
        """In main memory: the scores of a CUDA device are copied, with a warning."""
        return in_main_memory(self, problem)

    def solve(self, problem: Problem, options: Options) -> Solution:
        """The optimum with a certificate; `InfeasibleError` where there is none."""
        checked_problem(problem)
        started = time.perf_counter()
        program = to_linear_program(problem)
        work_limit = WorkLimit(options.max_seconds)
        work_limit.deadline += started - time.perf_counter()
        x, marginals = _vertex(program, program.b_ub, work_limit)
        taken = np.flatnonzero(x > 0.5)
        taken = taken[needed(problem, program.tokens[taken], program.features[taken], program.c[taken])]
        prices = _prices(problem, program, marginals, options.max_seconds)
        order = np.argsort(program.tokens[taken] * max(problem.shape[1], 1) + program.features[taken])
        tokens, features = program.tokens[taken][order], program.features[taken][order]
        matrix = problem.matrix
        values = matrix.values_at(matrix.find(tokens, features))
        stats = {"passes": 1, "seconds": time.perf_counter() - started}
        solution = Solution.optimal(problem, (tokens, features, values), prices, stats)
        certificate = verify(problem, solution)
        if not certificate.optimal:
            raise NotCertifiedError(
                f"HiGHS returned an answer with gap {certificate.gap:.3g}, above the rounding bound "
                f"{certificate.tolerance:.3g}: its own tolerances are wider than these scores need"
            )
        return solution


def _vertex(
    program: ProgramArrays, b_ub: NDArray[np.float64], work_limit: WorkLimit
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An optimal vertex and the marginals of its rows."""
    from scipy.optimize import linprog

    if program.c.size == 0 or b_ub.size == 0:
        if np.any(b_ub < 0):
            raise InfeasibleError(_contradiction(program, work_limit))
        return (program.c < 0).astype(np.float64), np.zeros(b_ub.size)
    # HiGHS has absolute tolerances: bring the largest score to 1
    scale = float(np.abs(program.c).max()) or 1.0
    result = linprog(
        program.c / scale,
        program.A_ub,
        b_ub,
        bounds=program.bounds,
        method="highs-ds",
        options={"presolve": True, **_time_limit(work_limit)},
    )
    if result.status == 2:
        raise InfeasibleError(_contradiction(program, work_limit))
    if result.status != 0:
        raise NotCertifiedError(f"HiGHS stopped without an optimum: {result.message}")
    return result.x, np.asarray(result.ineqlin.marginals) * scale


def _time_limit(work_limit: WorkLimit) -> dict[str, float]:
    """What HiGHS may still take, as its option."""
    left = work_limit.deadline - time.perf_counter()
    return {} if left == math.inf else {"time_limit": max(left, 0.0)}


def _contradiction(program: ProgramArrays, work_limit: WorkLimit) -> str:
    """A small set of limits that cannot hold together: the rows of a Farkas certificate.

    Minimising the total violation of the floors leaves prices on exactly the limits that stand against each other.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, hstack

    floors = np.flatnonzero(program.signs < 0)
    slack = csr_array((-np.ones(floors.size), (floors, np.arange(floors.size))), shape=(program.b_ub.size, floors.size))
    if program.c.size == 0:
        at_fault = floors[program.b_ub[floors] < 0]
    else:
        cost = np.concatenate([np.zeros(program.c.size), np.ones(floors.size)])
        bounds = [program.bounds] * program.c.size + [(0.0, np.inf)] * floors.size
        result = linprog(
            cost,
            hstack([program.A_ub, slack], format="csr"),
            program.b_ub,
            bounds=bounds,
            method="highs-ds",
            options=_time_limit(work_limit),
        )
        if result.status != 0:
            return f"no allocation meets them all; which floors demand too much was not found within {work_limit}"
        at_fault = np.flatnonzero(np.abs(result.ineqlin.marginals) > 1e-9)
    floor_rows, cap_rows = at_fault[program.signs[at_fault] < 0], at_fault[program.signs[at_fault] > 0]
    demanded = int(-program.b_ub[floor_rows].sum())
    message = f"the floors of {_named(program, floor_rows)} demand {matches_in_words(demanded)}"
    if cap_rows.size:
        return f"{message}, more than the caps of {_named(program, cap_rows)} and the allowed matches leave"
    return f"{message}, more than there are allowed matches"


def _named(program: ProgramArrays, rows: Indices) -> str:
    """Limits by name with their numbers, a few of each block."""
    parts = []
    for block in BLOCKS:
        members = program.members[rows[program.blocks[rows] == block]]
        limits = np.abs(program.b_ub[rows[program.blocks[rows] == block]]).astype(int)
        if members.size and block == "budget":
            parts.append(f"budget ({limits[0]})")
        elif members.size:
            shown = ", ".join(f"{m} ({n})" for m, n in zip(members[:8].tolist(), limits[:8].tolist(), strict=True))
            parts.append(f"{block} {shown}{f' and {members.size - 8} more' if members.size > 8 else ''}")
    return "; ".join(parts)


def _prices(problem: Problem, program: ProgramArrays, marginals: NDArray[np.float64], seconds: float | None) -> Prices:
    """Prices from the marginals; intervals from solving again with every right-hand side one more and one less."""
    tokens, features = problem.shape
    sizes = {"tokens": tokens, "features": features}
    sizes |= {"token_groups": len(problem.token_groups), "feature_groups": len(problem.feature_groups)}

    def price(block: str) -> Price:
        rows = np.flatnonzero(program.blocks == block)
        values = np.zeros(sizes.get(block, 1))
        # marginals of <= rows are at most 0: a cap's price is minus it, a floor's plus it
        np.add.at(values, program.members[rows], -program.signs[rows] * marginals[rows])

        def bounds() -> tuple[Real, Real]:
            lower, upper = np.zeros_like(values), np.zeros_like(values)
            work_limit = WorkLimit(seconds)
            for member in np.unique(program.members[rows]):
                own = rows[program.members[rows] == member]
                lower[member], upper[member] = _interval(program, own, work_limit)
            return (float(lower[0]), float(upper[0])) if block == "budget" else (lower, upper)

        return Price(float(values[0]) if block == "budget" else values, bounds)

    return Prices(*(price(block) for block in BLOCKS))


def _interval(program: ProgramArrays, rows: Indices, work_limit: WorkLimit) -> tuple[float, float]:
    """`V(b + 1) - V(b)` and `V(b) - V(b - 1)` of one limit; where its cap equals its floor, both move."""
    limits = program.b_ub[rows] * program.signs[rows]
    if rows.size == 2 and limits[0] == limits[1]:
        return _differences(program, rows, work_limit)
    # at most one of cap and floor is reached; the interval of the other is [0, 0]
    parts = [_differences(program, rows[i : i + 1], work_limit) for i in range(rows.size)]
    return sum(lower for lower, _ in parts), sum(upper for _, upper in parts)


def _differences(program: ProgramArrays, rows: Indices, work_limit: WorkLimit) -> tuple[float, float]:
    """What one more and one less of the right-hand sides of `rows` is worth."""
    values = []
    for change in (1, 0, -1):
        work_limit.check_intervals()
        b_ub = program.b_ub.copy()
        b_ub[rows] += change * program.signs[rows]
        try:
            if np.any(b_ub[rows][program.signs[rows] > 0] < 0):
                raise InfeasibleError("a cap below 0")
            values.append(-float(program.c @ np.round(_vertex(program, b_ub, work_limit)[0])))
        except InfeasibleError:
            values.append(-np.inf)
    return values[0] - values[1], values[1] - values[2]
