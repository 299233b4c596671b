"""Exact allocation under limits on both sides: prices by sweeps, a circulation on candidates, pricing of all edges."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass, replace

import numpy as np

from allocation.arguments import LARGEST_INTEGER
from allocation.arrays import Indices, Mask, Reals, among, union, without
from allocation.errors import InfeasibleError, NotCertifiedError
from allocation.problem import Problem, checked_problem
from allocation.solution import Price, Prices, Solution, no_price
from allocation.solvers.base import Options
from allocation.solvers.idle import needed
from allocation.solvers.top_selection.solver import TopSelection
from allocation.solvers.two_sided import compiled_flow
from allocation.solvers.two_sided.circulation import Network, network_of
from allocation.solvers.two_sided.cost_scaling import Scaling
from allocation.solvers.two_sided.feasibility import contradiction
from allocation.solvers.two_sided.first_candidates import ALWAYS_ALL, SMALL
from allocation.solvers.two_sided.infeasibility import witness
from allocation.solvers.two_sided.iterative_refinement import refined
from allocation.solvers.two_sided.last_bits import deciding_unit, on_unit
from allocation.solvers.two_sided.pricing import all_edges
from allocation.solvers.two_sided.primal_dual import FEW, TIGHT, BlockedError, ResidualNetwork
from allocation.solvers.two_sided.sensitivity import Optimum, price_bounds
from allocation.solvers.two_sided.side_prices import Candidates, SweepProblem
from allocation.solvers.two_sided.starting_point import StartingPoint, profit_of
from allocation.solvers.work_limit import SpentError, WorkLimit

EPS = float(np.finfo(np.float64).eps)
# A sum of a score and a few prices is off by less than this many units of eps; half of what the certificate allows.
UNITS = 4.0
# Pricing that found fewer edges has left none out: it keeps at least 8 of each row where it thins.
LEAST_THINNED = 8
# Up to this float64 holds every integer; a score and the prices at its two ends are a sum of three.
HELD = 2**53
# Rounds of pricing before giving up. Each adds edges, so that the number is finite anyway; ten are rare.
MOST_ROUNDS = 1000
# Rounds of putting right what rounding left on the wrong side of its prices, without a new edge.
MOST_REPAIRS = 20
# So many in haste.
PATIENCE = 2
_LONGER = "allow more with max_seconds=, or start from the prices of a similar problem with warm_start="
_SPENT = (
    "bring scores of very different sizes closer together, allow as long as it takes with max_seconds=, or name "
    "LinearProgram() if the problem is small"
)
_HELD = "float64 holds sums with such prices of integers no more: bring the scores closer to 0, or pass them as float64"
_SIZES = "scores of so different sizes have prices that float64 does not tell apart: bring the scores closer together"


@dataclass(frozen=True)
class TwoSided:
    """Every mix of limits, by prices, shortest paths and pricing.

    ::

        maximise sum_ij S_ij A_ij   subject to all limits, groups and floors

    The limits of each side are laminar, so the problem is a circulation of minimum cost and has an integral optimum
    (Edmonds 1970). Price sweeps on promising edges come close to the optimal prices; shortest augmenting paths on the
    edges near their prices end in the optimum among them; one pass over all edges proves that it is the optimum of the
    whole problem, or finds edges that must join. What is returned is proved; what cannot be proved is an error.

    Deterministic; which of several optimal allocations is returned may change between versions.

    Parameters
    ----------
    compiled : bool, default False
        Use OR-tools (extra ``flow``), where it is installed, once sweeps leave much out of balance, as they do on
        scores with structure: products, sums, few values. Not with ``warm_start=`` or ``max_seconds=``. Problems of
        less than 2^16 edges look at some of them first. Without, prices are the same bits whatever is installed.

    Examples
    --------
    >>> import allocation as al
    >>> problem = al.balanced_choice([[3.0, 1.0], [2.5, 0.0]], token_caps=1, feature_caps=1)
    >>> al.solve(problem, al.TwoSided()).mask().astype(int)
    array([[0, 1],
           [1, 0]])
    """

    compiled: bool = False

    def refusal(self, problem: Problem) -> str | None:
        """Every problem is accepted."""
        return None

    def localise(self, problem: Problem) -> Problem:
        """As it is; a small problem in main memory, where all its edges are candidates."""
        return problem if problem.matrix.n_edges > SMALL else problem.on_host()

    def solve(self, problem: Problem, options: Options) -> Solution:
        """The optimum, proved; `InfeasibleError` where there is none, `NotCertifiedError` when time ran out."""
        checked_problem(problem)
        return _Search(problem, options, self.compiled).run()


class _Search:
    """One solve: what is known so far, and the steps that extend it."""

    def __init__(self, problem: Problem, options: Options, compiled: bool = False) -> None:
        self.problem = problem
        self.options = options
        self.started = time.perf_counter()
        self.work_limit = WorkLimit(options.max_seconds, problem.matrix.n_edges + sum(problem.shape))
        self.network = network_of(problem)
        self.edges = all_edges(problem, options.workers, self.work_limit)
        self.compiled = compiled and compiled_flow.fits(problem, options)
        small = ALWAYS_ALL if compiled else SMALL
        self.starting_point = StartingPoint(problem, self.network, self.edges, self.work_limit, self.compiled, small)
        self.prices = np.zeros(self.network.tails.size)  # the best known, for what an early end can say
        self.used: dict[str, str] = {}
        self.passes = self.sweeps = self.phases = 0
        self.blocked = self.repaired = 0
        self.rough = False  # where rounding decides, paths need refinement
        # where comparing scores decides, a difference in the last bit counts; and sums of integers are exact
        self.compares = TopSelection().refusal(problem) is None
        # all scores are multiples of it, or those that decide in the last bits are
        self.unit = 1.0 if problem.matrix.is_integer else None
        self.tolerance = TIGHT if self.unit is None and not self.compares else 0.0

    def run(self) -> Solution:
        """The optimum; an error that tells the best gap where the work limit ends the search."""
        try:
            return self._optimum()
        except SpentError:
            advice = _SPENT if self.work_limit.seconds is None else _LONGER
            raise NotCertifiedError(self._unproved(self.prices, str(self.work_limit), advice)) from None

    def _optimum(self) -> Solution:
        contradicting = contradiction(self.problem, self.network)
        if contradicting is not None:
            raise InfeasibleError(witness(self.problem, self.network, contradicting))
        # sums with wrong prices lose the last bit of a score
        given = None if self.compares else self.options.warm_start
        warm = _warm_prices(self.network, given)
        prices, current, fixed = self.starting_point.run(warm)
        self.prices = prices
        self.passes, self.sweeps = self.starting_point.passes, self.starting_point.sweeps
        held = profit_of(current, self.network, prices) > 0
        state = self._proved(self.network.potentials(prices), current, held, fixed)
        if self.tolerance:
            state = self._to_the_last_bit(*state)
        potentials, current, held, fixed = state
        ids = np.sort(np.concatenate([fixed, current.ids[held]]))
        return self._solution(self.network.prices(potentials), ids, current.ids)

    def _proved(
        self, potentials: Reals, current: Candidates, held: Mask, fixed: Indices
    ) -> tuple[Reals, Candidates, Mask, Indices]:
        """The circulation that all edges prove to be optimal, within rounding or without where that is none."""
        self.repaired = 0  # rounds in a row that found no new edge, but edges that rounding left on the wrong side
        for _ in range(MOST_ROUNDS):
            potentials, current, held, fixed = self._balanced(potentials, current, held, fixed)
            prices = self.prices = self.network.prices(potentials)
            violators = self._violators(prices, np.sort(np.concatenate([fixed, current.ids[held]])))
            if not violators.size:
                return potentials, current, held, fixed
            joining = without(violators, current.ids)
            self.rough = self.rough or joining.size < violators.size
            self.repaired = 0 if joining.size else self.repaired + 1
            if self.repaired > MOST_REPAIRS:
                raise NotCertifiedError(self._unproved(prices, f"{self.repaired} repairs of rounding", _SIZES))
            current, held, fixed = self._joined(current, held, fixed, joining)
        raise NotCertifiedError(self._unproved(prices, f"{MOST_ROUNDS} rounds"))

    def _to_the_last_bit(
        self, potentials: Reals, current: Candidates, held: Mask, fixed: Indices
    ) -> tuple[Reals, Candidates, Mask, Indices]:
        """What is proved within rounding, proved without where the last bits decide and float64 holds the sums."""
        rows, columns = self.network.line_prices(np.abs(self.prices))
        sizes = np.abs(current.scores) + rows[current.tokens] + columns[current.features]
        unit = deciding_unit(self.network, self.prices, current, held, UNITS * EPS * sizes)
        if unit is None:
            return potentials, current, held, fixed
        self.unit, self.tolerance, self.rough = unit, 0.0, False
        try:
            return self._proved(on_unit(potentials, unit), current, held, fixed)
        except (NotCertifiedError, InfeasibleError, SpentError):  # prices that the grid does not hold after all
            return potentials, current, held, fixed

    def _balanced(
        self, potentials: Reals, current: Candidates, held: Mask, fixed: Indices
    ) -> tuple[Reals, Candidates, Mask, Indices]:
        """The optimal circulation on the current edges; edges join where flow is blocked."""
        # what was not put right twice in haste from nearby is put right from afar, step by step
        steadily = self.repaired >= PATIENCE
        near = self.rough and not steadily
        while True:
            residual = ResidualNetwork(self.network, current, self.edges.ends(fixed), self.tolerance)
            scaling = Scaling(
                residual,
                current,
                functools.partial(self._sweep_problem, fixed),
                self.work_limit,
                self.unit,
            )
            try:
                self.work_limit.spend(self.problem.matrix.n_edges)  # the pass that brought these edges
                found = self._compiled(residual, potentials, held) if self.compiled and not self.rough else None
                if found is not None:
                    potentials, held = found
                if not self.rough:
                    if found is not None and residual.imbalance(potentials, held) <= FEW:
                        done = residual.settle(potentials, held, self.work_limit)
                    else:
                        done = scaling.run(potentials, held)
                    self.rough = not done.done
                    potentials, held, self.phases = done.potentials, done.matched, self.phases + done.phases
                if self.rough:
                    done = refined(residual, potentials, held, near, self.work_limit, steadily, self.compiled)
                    potentials, held, self.phases = done.potentials, done.matched, self.phases + done.phases
                return potentials, current, held, fixed
            except SpentError:
                self.prices = self.network.prices(potentials)
                raise
            except BlockedError as blocked:
                joining = self._through(blocked.inside, potentials, current, fixed)
                current, held, fixed = self._joined(current, held, fixed, joining)
                near = False

    def _compiled(self, residual: ResidualNetwork, potentials: Reals, held: Mask) -> tuple[Reals, Mask] | None:
        """Potentials and matches by OR-tools where much is out of balance; None where it is not, or it fails."""
        if residual.imbalance(potentials, held) <= compiled_flow.LEAST_IMBALANCE:
            return None
        found = compiled_flow.compiled_start(residual, self.problem.matrix.is_integer)
        if found is None:
            return None
        self.used = {"compiled": "OR-tools"}
        if self.unit is None and residual.imbalance(*found) > compiled_flow.LEAST_IMBALANCE:
            self.rough = True  # its grid lost scores that decide: so would any one grid
            return None
        return found

    def _sweep_problem(self, fixed: Indices, candidates: Candidates, prices: Reals) -> SweepProblem:
        return self.starting_point.sweep_problem(candidates, fixed, self.starting_point.band(candidates, prices))

    def _through(self, inside: Mask, potentials: Reals, current: Candidates, fixed: Indices) -> Indices:
        """Edges that let flow out of a set of nodes; `InfeasibleError` if there are none."""
        n_tokens = self.network.shape[0]
        inside_tokens, inside_features = inside[:n_tokens], inside[n_tokens : self.network.token_root]
        # a fixed match into the set, taken back, lets flow out
        tokens, features = self.edges.ends(fixed)
        joining = fixed[~inside_tokens[tokens] & inside_features[features]]
        rows, columns = self.network.line_prices(self.network.prices(potentials))
        ends = np.flatnonzero(inside_tokens), np.flatnonzero(~inside_features)
        # flow that is blocked again and again lacks many edges: each time twice as many of each line join
        for _ in range(2 ** min(self.blocked, 6)):
            known = union(current.ids, fixed, joining)
            more = self.edges.leaving(*ends, rows, columns, but=known)
            if not more.size:
                break
            joining = union(joining, more)
        self.blocked += 1
        if not joining.size:
            raise InfeasibleError(witness(self.problem, self.network, inside))
        return joining

    def _joined(
        self, current: Candidates, held: Mask, fixed: Indices, joining: Indices
    ) -> tuple[Candidates, Mask, Indices]:
        """The current edges with those that join; a fixed match that joins stays held until the flow says otherwise."""
        were_fixed = among(joining, fixed)
        ids = np.concatenate([current.ids, joining])
        order = np.argsort(ids)
        held = np.concatenate([held, were_fixed])[order]
        return self.edges.candidates(ids[order]), held, without(fixed, joining)

    def _violators(self, prices: Reals, ids: Indices) -> Indices:
        """Edges on the wrong side of their prices by more than rounding: refused ones above, matched ones below."""
        rows, columns = self.network.line_prices(prices)
        row_sizes, column_sizes = self.network.line_prices(np.abs(prices))
        most = 8 * self.network.n_nodes + 4 * ids.size
        rounding = UNITS * EPS if self.unit is None else 0.0

        def wrong(edges: Candidates, sign: float) -> Indices:
            size = np.abs(edges.scores) + row_sizes[edges.tokens] + column_sizes[edges.features]
            return edges.ids[sign * edges.profit(rows, columns) > rounding * size]

        for limit in (most, None):
            above = self.edges.above(rows, columns, most=limit, but=ids)
            self.passes += 1
            refused = wrong(self.edges.candidates(above), 1.0)
            # what was thinned out kept the largest profits, and these may all be rounding where smaller ones are not
            if refused.size or above.size < LEAST_THINNED:
                break
        return union(refused, wrong(self.edges.candidates(ids), -1.0))

    def _solution(self, prices: Reals, ids: Indices, near: Indices) -> Solution:
        sizes = sum(map(_largest, self.network.line_prices(np.abs(prices))))
        if self.problem.matrix.is_integer and LARGEST_INTEGER + sizes > HELD:
            raise NotCertifiedError(self._unproved(prices, f"prices of {sizes:.3g} together", _HELD))
        problem = self.problem
        ids = ids[needed(problem, *self.edges.ends(ids), self.edges.values(ids))]
        tokens, features = self.edges.ends(ids)
        seconds = time.perf_counter() - self.started
        stats = {"passes": self.passes, "sweeps": self.sweeps, "phases": self.phases, "seconds": seconds, **self.used}
        answer = (tokens, features, self.edges.values(ids))
        prices_of_limits = _prices(
            problem, Optimum(self.edges, self.network, prices, ids, near, self.options.max_seconds)
        )
        return Solution.optimal(problem, answer, prices_of_limits, stats)

    def _unproved(self, prices: Reals, limit: str, advice: str = _LONGER) -> str:
        """What is known when the search ends early: a bound from the prices at hand."""
        rows, columns = self.network.line_prices(prices)
        limits = np.where(prices > 0, self.network.upper, np.where(prices < 0, self.network.lower, 0))
        floors = bool((self.network.lower > 0).any())
        known = "no allocation that meets the floors is known yet" if floors else "the empty one reaches 0"
        try:
            above = replace(self.edges, work_limit=self.work_limit.grace()).total_above(rows, columns)
        except SpentError:
            return f"stopped after {limit} without a proof and without a bound: {known}; {advice}"
        bound = math.fsum([*(limits * prices).tolist(), above])
        return (
            f"stopped after {limit} without a proof: every allocation scores at most {bound:.6g}, {known}, so the best "
            f"gap is {'infinite' if floors else format(bound, '.6g')}; {advice}"
        )


def _largest(prices: Reals) -> float:
    return float(prices.max(initial=0.0))


def _prices(problem: Problem, optimum: Optimum) -> Prices:
    """Prices by block; their intervals are computed together, when the first is asked for."""
    network = optimum.network
    bounds = functools.cache(lambda: price_bounds(optimum))

    def price(block: slice) -> Price:
        return Price(optimum.prices[block], lambda: (bounds()[0][block], bounds()[1][block]))

    prices = {name: price(block) for name, block in network.blocks.items()}
    at = network.budget_arc
    prices["budget"] = no_price()
    if problem.budget is not None:
        prices["budget"] = Price(float(optimum.prices[at]), lambda: (float(bounds()[0][at]), float(bounds()[1][at])))
    return Prices(**prices)


def _warm_prices(network: Network, warm_start: Prices | None) -> Reals | None:
    """Prices of a similar problem as one per arc; None if they do not fit this one."""
    if warm_start is None:
        return None
    given = ((getattr(warm_start, name).value, block) for name, block in network.blocks.items())
    parts = [(np.atleast_1d(np.asarray(value, np.float64)), block) for value, block in given]
    if any(part.shape != (block.stop - block.start,) for part, block in parts):
        return None
    prices = np.concatenate([part for part, _ in parts])
    allowed = np.where(network.upper >= network.unbounded, np.minimum(prices, 0.0), prices)
    allowed = np.where(network.lower <= 0, np.maximum(allowed, 0.0), allowed)
    return allowed if np.isfinite(allowed).all() else None
