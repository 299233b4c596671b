"""The certificate: whether an allocation is feasible, and whether its prices prove that none is better.

Written from the optimality conditions alone; it shares no code with any solver and trusts nothing that one computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allocation.arguments import array_of, shown
from allocation.arrays import Indices, Mask, Reals
from allocation.errors import InvalidProblemError
from allocation.exact_sums import lost, unit_of
from allocation.open_edges import open_edges
from allocation.problem import Problem, checked_problem
from allocation.rough import Rough
from allocation.scores import EdgeScores
from allocation.solution import Prices, Solution, checked_prices

# A float64 sum of at most four prices and a score, each rounded, is off by less than this many units.
_UNITS = 8.0
_EPS = float(np.finfo(np.float64).eps)
# No price times its limit is larger: a path of as many scores as there are nodes, none beyond 1e280, and its edges.
_LARGEST = 1e300
# A tolerance that is a larger share of the objective and of a path of scores proves nothing.
_LOOSEST = 1e-6
# Prices of scores that are all 0 need not be.
_SMALLEST = 1e-280
# Named places in one violation: enough to find it, few enough to read.
_SHOWN = 5
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


def verify(problem: Problem, solution: Solution) -> Certificate:
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

    Returns
    -------
    Certificate

    Source: complementary slackness; Schrijver 2003, *Combinatorial Optimization*, chapters 5 and 41.

    Examples
    --------
    >>> import allocation as al
    >>> problem = al.token_choice([[2, 1], [0, 3]], k=1)
    >>> al.verify(problem, al.solve(problem))
    Certificate(optimal=True, gap=0.0, tolerance=0.0, violations=())
    """
    checked_problem(problem)
    if not all(hasattr(type(solution), name) or hasattr(solution, name) for name in _ANSWER):
        raise InvalidProblemError(f"solution: expected {', '.join(_ANSWER)}, found {shown(solution)}")
    problem = problem.on_host()
    tokens, features, values = (_answer(solution, name) for name in ("tokens", "features", "values"))
    prices = _checked_prices(problem, solution.prices)
    if isinstance(problem.matrix, Rough):
        sums = [total for total, _, _ in _price_sums(problem, prices)]
        problem = open_edges(problem, problem.matrix, tokens, features, sums)
    violations = _malformed(problem, tokens, features, values)
    if violations:
        return Certificate(False, math.inf, 0.0, tuple(violations))
    limits = list(_limits(problem, tokens, features, prices))
    for limit in limits:
        violations += limit.violations()
    if any(limit.senseless.any() for limit in limits):
        return Certificate(False, math.inf, 0.0, tuple(violations))
    feasible = not any(limit.is_broken() for limit in limits)
    (row_price, row_size, rows_held), (column_price, column_size, columns_held) = _price_sums(problem, prices)
    selected = _scores_of(problem, tokens, features)
    largest = row_size.max(initial=0.0) + column_size.max(initial=0.0) + np.abs(selected).max(initial=0.0)
    exact_sums = problem.matrix.is_integer and _all_integer(selected, limits) and bool(largest < 2**53)

    terms = [row_price[tokens], column_price[features]]
    reduced = selected - terms[0] - terms[1]
    bound = _UNITS * _EPS * (np.abs(selected) + row_size[tokens] + column_size[features])
    bound = np.zeros_like(bound) if exact_sums else bound
    cheap = np.flatnonzero(reduced < -bound)
    if cheap.size:
        violations.append(
            f"{cheap.size} selected match(es) cost more than they score, such as token {tokens[cheap[0]]}, feature "
            f"{features[cheap[0]]}: {selected[cheap[0]]:.6g} is {-reduced[cheap[0]]:.3g} below its prices"
        )
    exchange = _exchange(problem, tokens, features)
    last_bits = None
    if not exact_sums and exchange is None:
        last_bits = _LastBits(largest, (row_price, column_price), (rows_held, columns_held))
    if last_bits is not None:
        last_bits.add(tokens, features, selected, -reduced)
    profits = [float(p) for p in np.maximum(reduced, 0.0)]
    tolerance = float(bound.sum())
    missed: list[str] = []
    for block in _refused_blocks(problem, tokens, features):
        spent = row_price[block.tokens] + column_price[block.features]
        profit = block.scores - spent
        better = np.nonzero(profit > 0)
        if last_bits is not None and last_bits.exact:
            near = np.nonzero(profit >= -last_bits.reach)
            at, to = (np.broadcast_to(end, profit.shape)[near] for end in (block.tokens, block.features))
            last_bits.add(at, to, block.scores[near], profit[near])
        found = profit[better]
        ends = [np.broadcast_to(end, profit.shape)[better] for end in (block.tokens, block.features)]
        size = np.abs(block.scores[better]) + row_size[ends[0]] + column_size[ends[1]]
        slack = np.zeros_like(found) if exact_sums else _UNITS * _EPS * size
        profits += found.tolist()
        tolerance += float(slack.sum())
        wrong = found > slack
        if wrong.any() and len(missed) < _SHOWN:
            most = int(np.argmax(np.where(wrong, found, 0.0)))
            missed.append(
                f"{int(wrong.sum())} refused match(es) score above their prices, the most token {ends[0][most]}, "
                f"feature {ends[1][most]}: by {found[most]:.3g}"
            )
    violations += missed + _idle(limits, tokens, features, selected, problem)
    due = [pair for limit in limits for pair in limit.due()]
    if exact_sums:  # a count times a price may need more bits than a float64 has
        gap = float(sum(count * int(price) for count, price in due) + sum(map(int, profits)) - sum(map(int, selected)))
    else:
        dual_terms = [count * price for count, price in due]
        gap = math.fsum(dual_terms + profits + (-selected).tolist())
        tolerance += _UNITS * _EPS * math.fsum(map(abs, dual_terms))
    if abs(gap) > tolerance and feasible and not violations:
        violations.append(f"the prices leave a gap of {gap:.6g} to the objective")
    elif (
        not violations
        and tolerance > _LOOSEST * np.abs(selected).sum()
        and tolerance > _LOOSEST * _size(problem, selected)
    ):
        violations.append(
            f"the prices are so far beyond the scores that rounding in them hides a gap of {tolerance:.3g}"
        )
    if last_bits is not None and last_bits.prove() and not violations:
        gap, tolerance = 0.0, 0.0
    if exchange is not None:
        violations += exchange
        if not exchange and not violations:
            gap, tolerance = 0.0, 0.0  # proved by comparisons alone, which float64 makes exactly
    return Certificate(not violations, gap if feasible else math.inf, tolerance, tuple(violations))


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


class _LastBits:
    """Whether float64 held all sums that decide, and what the matches may miss of the optimum is nothing.

    Where the prices go with the limits, dual minus primal objective is what edges on the wrong side of their prices are
    there. Any two allocations of edges near their prices differ by a multiple of the unit of their scores, and one with
    another edge scores less by the reach: a difference below both is none.
    """

    def __init__(self, largest: float, prices: tuple[Reals, Reals], held: tuple[Mask, Mask]) -> None:
        self.reach = 4 * _UNITS * _EPS * largest
        self.prices, self.held = prices, held
        self.exact, self.unit, self.wrong = True, math.inf, 0.0

    def add(self, tokens: Indices, features: Indices, scores: Reals, profit: Reals) -> None:
        """Edges with what must not be positive: the profit of refused ones, its opposite of selected ones."""
        near = np.flatnonzero(np.abs(profit) <= self.reach)
        if not self.exact or not near.size:
            return
        tokens, features, scores = tokens[near], features[near], scores[near]
        rows, columns = self.prices[0][tokens], self.prices[1][features]
        part = scores - rows
        rest = part - columns
        self.exact = bool(self.held[0][tokens].all() and self.held[1][features].all())
        self.exact = self.exact and not (lost(scores, -rows, part).any() or lost(part, -columns, rest).any())
        self.unit = min(self.unit, unit_of(scores))
        self.wrong += float(np.abs(rest[profit[near] > 0]).sum())

    def prove(self) -> bool:
        """Whether no allocation is better at all."""
        return self.exact and 2 * self.wrong < min(self.unit, self.reach)


@dataclass(frozen=True)
class _Limit:
    """One block of limits: counts between floors and caps, and the prices that go with them."""

    name: str
    counts: Indices
    floors: Indices | None
    caps: Indices | None
    prices: Reals

    @property
    def senseless(self) -> NDArray[np.bool_]:
        """Prices that are no numbers, or so large that nothing can be summed with them."""
        caps, floors = (
            np.ones(self.counts.shape) if of is None else np.maximum(of, 1.0) for of in (self.caps, self.floors)
        )
        return ~(np.abs(self.prices) <= _LARGEST / np.where(self.prices > 0, caps, floors))

    def is_broken(self) -> bool:
        over = self.caps is not None and bool(np.any(self.counts > self.caps))
        return over or (self.floors is not None and bool(np.any(self.counts < self.floors)))

    def violations(self) -> Iterator[str]:
        caps = np.full(self.counts.shape, np.iinfo(np.int64).max) if self.caps is None else self.caps
        floors = np.full(self.counts.shape, -1) if self.floors is None else self.floors
        conditions = (
            (self.counts > caps, "holds {count} matches, above its cap {cap}"),
            (self.counts < floors, "holds {count} matches, below its floor {floor}"),
            (
                (self.prices > 0) & (self.counts != caps),
                "has price {price:.6g} but its cap is not reached ({count})",
            ),
            (
                (self.prices < 0) & (self.counts != floors),
                "has price {price:.6g} but its floor is not reached ({count})",
            ),
            (self.senseless, "has the price {price}"),
        )
        for broken, text in conditions:
            for at in np.flatnonzero(broken)[:_SHOWN]:
                described = text.format(count=self.counts[at], cap=caps[at], floor=floors[at], price=self.prices[at])
                more = int(np.count_nonzero(broken)) - 1
                yield f"{self.name}[{at}] {described}" + (f", and {more} more" if more else "")
                break

    def due(self) -> list[tuple[int, float]]:
        """Each limit that has a price, and the price."""
        caps = np.zeros(self.counts.shape, np.int64) if self.caps is None else self.caps
        floors = np.zeros(self.counts.shape, np.int64) if self.floors is None else np.maximum(self.floors, 0)
        at = np.flatnonzero(self.prices)
        limits = np.where(self.prices > 0, caps, floors)[at]
        return list(zip(limits.tolist(), self.prices[at].tolist(), strict=True))


def _limits(problem: Problem, tokens: Indices, features: Indices, prices: Prices) -> Iterator[_Limit]:
    budget = None if problem.budget is None else np.array([problem.budget])
    yield _Limit("budget", np.array([tokens.size]), None, budget, np.array([prices.budget.value], np.float64))
    sides = (
        (
            "token",
            tokens,
            problem.shape[0],
            problem.token_floors,
            problem.token_caps,
            prices.tokens,
            problem.token_groups,
        ),
        (
            "feature",
            features,
            problem.shape[1],
            problem.feature_floors,
            problem.feature_caps,
            prices.features,
            problem.feature_groups,
        ),
    )
    for name, ends, size, floors, caps, price, groups in sides:
        counts = np.bincount(ends, minlength=size)
        yield _Limit(f"{name}s", counts, floors, caps, np.broadcast_to(np.asarray(price.value, np.float64), (size,)))
        if groups:
            lowest, highest = -1, np.iinfo(np.int64).max  # as of lines that have none
            yield _Limit(
                f"{name}_groups",
                np.array([int(counts[group.members].sum()) for group in groups]),
                np.array([lowest if g.floor is None else g.floor for g in groups]),
                np.array([highest if g.cap is None else g.cap for g in groups]),
                np.asarray(getattr(prices, f"{name}_groups").value, np.float64),
            )


def _malformed(problem: Problem, tokens: Indices, features: Indices, values: NDArray[Any]) -> list[str]:
    """Conditions without which nothing else can be checked."""
    rows, columns = problem.shape
    if not (tokens.shape == features.shape == values.shape and tokens.ndim == 1):
        return [f"tokens, features and values have shapes {tokens.shape}, {features.shape}, {values.shape}"]
    if tokens.size == 0:
        return []
    for name, ends, size in (("token", tokens, rows), ("feature", features, columns)):
        if ends.min() < 0 or ends.max() >= size:
            return [f"a match names {name} {ends.min() if ends.min() < 0 else ends.max()}, outside 0..{size - 1}"]
    flat = tokens * columns + features
    if np.any(flat[1:] <= flat[:-1]):
        at = int(np.flatnonzero(flat[1:] <= flat[:-1])[0])
        return [f"match {at + 1} repeats an earlier one or is out of (token, feature) order"]
    expected = _scores_of(problem, tokens, features)
    forbidden = np.flatnonzero(expected == -np.inf)
    if forbidden.size:
        return [f"the match of token {tokens[forbidden[0]]} with feature {features[forbidden[0]]} is forbidden"]
    wrong = np.flatnonzero(expected != values.astype(np.float64))
    if problem.matrix.is_integer and values.dtype.kind in "iu" and not wrong.size:
        wrong = np.flatnonzero(_entries_of(problem, tokens, features) != values)  # beyond 2^53 they may round alike
    if wrong.size:
        return [f"values[{wrong[0]}] is {values[wrong[0]]}, but the score there is {expected[wrong[0]]}"]
    return []


def _scores_of(problem: Problem, tokens: Indices, features: Indices) -> Reals:
    """Scores of matches as float64; -inf where no edge joins them."""
    matrix = problem.matrix
    if not isinstance(matrix, EdgeScores):
        return matrix.widened(np.ascontiguousarray(matrix.array[tokens, features])).astype(np.float64)
    if matrix.n_edges == 0:
        return np.full(tokens.shape, -np.inf)
    at, joined = _edges_at(matrix, tokens, features)
    return np.where(joined, matrix.array[at].astype(np.float64), -np.inf)


def _entries_of(problem: Problem, tokens: Indices, features: Indices) -> NDArray[Any]:
    """Scores of matches, each of which an edge joins, in their own integer type."""
    matrix = problem.matrix
    if isinstance(matrix, EdgeScores):
        return np.asarray(matrix.array[_edges_at(matrix, tokens, features)[0]])
    return np.asarray(matrix.array[tokens, features])


def _edges_at(matrix: EdgeScores, tokens: Indices, features: Indices) -> tuple[Indices, NDArray[np.bool_]]:
    """Where in the list the edges of these ends are, and whether they are there."""
    wanted = tokens * matrix.shape[1] + features
    flat = matrix.tokens * matrix.shape[1] + matrix.features
    at = np.minimum(np.searchsorted(flat, wanted), flat.size - 1)
    return at, flat[at] == wanted


def _size(problem: Problem, selected: Reals) -> float:
    """What objective and prices may amount to: the selected scores, and a path of the largest through all limits."""
    matrix = problem.matrix
    array = matrix.array if isinstance(matrix, EdgeScores) else matrix.widened(matrix.array)
    largest = float(np.max(array, initial=0)), float(np.min(array, initial=0, where=array > -np.inf))
    limits = sum(problem.shape) + len(problem.token_groups) + len(problem.feature_groups) + 1
    return float(np.abs(selected).sum()) + limits * max(largest[0], -largest[1], _SMALLEST)


def _price_sums(problem: Problem, prices: Prices) -> tuple[tuple[Reals, Reals, Mask], tuple[Reals, Reals, Mask]]:
    """Per token the sum of its prices with the budget's, per feature the sum of its prices.

    Each with its size, the sum of absolute prices, which bounds the rounding of the sum, since that may cancel; and
    whether float64 held the sum.
    """
    sums = []
    for number, base, line, groups, price in (
        (problem.shape[0], prices.budget.value, prices.tokens, problem.token_groups, prices.token_groups),
        (problem.shape[1], 0.0, prices.features, problem.feature_groups, prices.feature_groups),
    ):
        first, own = np.full(number, base, np.float64), np.broadcast_to(line.value, number)
        total = first + own
        size = np.abs(first) + np.abs(own)
        held = ~lost(first, own, total)
        for group, value in zip(groups, np.atleast_1d(price.value), strict=True):
            before = total[group.members]
            total[group.members] += value
            size[group.members] += abs(value)
            held[group.members] &= ~lost(before, value, total[group.members])
        sums.append((total, size, held))
    return sums[0], sums[1]


def _idle(limits: list[_Limit], tokens: Indices, features: Indices, selected: Reals, problem: Problem) -> list[str]:
    """A match of score 0 or less is held only if a floor needs it: one that could go without falling below any."""
    idle = np.flatnonzero(selected <= 0)
    for limit in limits:
        if limit.floors is None or not idle.size:
            continue
        ends = (tokens if limit.name.startswith("token") else features)[idle]
        tight = limit.counts == limit.floors
        if limit.name.endswith("groups"):
            groups = [getattr(problem, limit.name)[number].members for number in np.flatnonzero(tight)]
            idle = idle[~np.isin(ends, np.concatenate([np.empty(0, np.int64), *groups]))]
        else:
            idle = idle[~tight[ends]]
    if not idle.size:
        return []
    at = idle[0]
    return [
        f"{idle.size} match(es) score 0 or less though no floor needs them, such as token {tokens[at]}, feature "
        f"{features[at]}: {selected[at]:.6g}"
    ]


def _all_integer(selected: Reals, limits: list[_Limit]) -> bool:
    """Whether these numbers are integers: their float64 sums are exact while they stay below 2^53."""
    numbers = [selected, *(limit.prices for limit in limits)]
    return all(bool(np.all(n == np.rint(n))) for n in numbers)


@dataclass(frozen=True, eq=False)
class _Block:
    """Some edges with the selected ones at -inf: a vector each, or a column, a row and a matrix."""

    tokens: Indices
    features: Indices
    scores: Reals

    def best(self, side: int, size: int) -> Reals:
        """Largest score per token (side 0) or per feature (side 1); -inf where there is none."""
        best = np.full(size, -np.inf)
        if self.scores.ndim == 1:
            np.maximum.at(best, (self.tokens, self.features)[side], self.scores)
        elif self.scores.size:
            ends = (self.tokens, self.features)[side].reshape(-1)
            best[ends] = self.scores.max(axis=1 - side)
        return best


def _refused_blocks(problem: Problem, tokens: Indices, features: Indices) -> Iterator[_Block]:
    """Every edge, the selected ones at -inf, in blocks of rows small enough for the cache."""
    matrix = problem.matrix
    if isinstance(matrix, EdgeScores):
        flat = matrix.tokens * matrix.shape[1] + matrix.features
        held = np.isin(flat, tokens * matrix.shape[1] + features)
        yield _Block(matrix.tokens, matrix.features, np.where(held, -np.inf, matrix.array.astype(np.float64)))
        return
    rows, columns = problem.shape
    step = max(1, (1 << 16) // max(columns, 1))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        scores = matrix.rows(start, stop).astype(np.float64)
        inside = slice(*np.searchsorted(tokens, [start, stop]))
        scores[tokens[inside] - start, features[inside]] = -np.inf
        yield _Block(np.arange(start, stop)[:, None], np.arange(columns)[None, :], scores)


def _exchange(problem: Problem, tokens: Indices, features: Indices) -> list[str] | None:
    """Optimality by comparisons of scores alone, where limits stand on one side only; None elsewhere.

    No group at its cap may refuse a better match than one it holds; no group below its cap may refuse one that scores
    above 0, or, once the budget is reached, above the worst match held anywhere; no match held may score 0 or less.
    """
    two_sided = problem.token_caps is not None and problem.feature_caps is not None
    floors = problem.token_floors is not None or problem.feature_floors is not None
    if two_sided or floors or problem.token_groups or problem.feature_groups:
        return None
    if problem.matrix.type in ("int64", "uint64"):
        problem = _in_order(problem)
    side = 1 if problem.feature_caps is not None else 0
    caps = (problem.token_caps, problem.feature_caps)[side]
    groups, size = (tokens, features)[side], problem.shape[side]
    worst, best = np.full(size, np.inf), np.full(size, -np.inf)
    held = _scores_of(problem, tokens, features)
    np.minimum.at(worst, groups, held)
    for block in _refused_blocks(problem, tokens, features):
        best = np.maximum(best, block.best(side, size))
    full = np.zeros(size, bool) if caps is None else np.bincount(groups, minlength=size) == caps
    reached = problem.budget is not None and tokens.size == problem.budget
    least = held.min(initial=np.inf) if reached else 0.0
    found = []
    for wrong, text in (
        (full & (best > worst), "holds a match worse than one it refuses"),
        (~full & (best > least), "refuses a match better than the worst one held, or than none"),
        (worst <= 0, "holds a match that scores 0 or less"),
    ):
        if wrong.any():
            found.append(f"{('token', 'feature')[side]} {int(wrong.argmax())} {text}")
    return found


def _in_order(problem: Problem) -> Problem:
    """The problem with integers that float64 would round replaced by their ranks above or below 0, as they compare."""
    matrix = problem.matrix
    array = matrix.array
    if array.size == 0 or max(int(array.max()), -int(array.min())) <= 2**53:
        return problem
    values, ranks = np.unique(array, return_inverse=True)
    above = np.searchsorted(values, 0, side="right")  # the first rank of positive scores
    ordered = ranks.reshape(array.shape) + 1.0 - above
    ordered[array <= 0] -= 1.0
    ordered[array == 0] = 0.0
    limits = {name: value for name, value in vars(problem).items() if name != "matrix"}
    if isinstance(matrix, EdgeScores):
        return Problem.from_edges(matrix.tokens, matrix.features, ordered, matrix.shape, **limits)
    return Problem(ordered, **limits)
