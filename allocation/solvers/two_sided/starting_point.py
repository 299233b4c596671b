"""Where the exact search begins: prices near the optimum, the edges near those prices, and matches far above them.

Sweeps over the candidates at hand give prices; a pass over all edges gives the candidates of these prices, those in a
band around them. That repeats until the edges found no longer unbalance the prices. What lies above the band is
matched for now, what lies below it is refused; only the band stays open.
"""

from __future__ import annotations

import numpy as np

from allocation.arrays import Indices, Mask, Reals, stable_order, union
from allocation.problem import Problem
from allocation.solvers.two_sided.block_passes import reduced_profit
from allocation.solvers.two_sided.circulation import Network, network_of
from allocation.solvers.two_sided.compiled_flow import (
    ALL_EDGES,
    FAR_OFF,
    IN_VAIN,
    LEAST_IMBALANCE,
    MOST_PRICE_SWEEPS,
    far_apart,
    mostly_ties,
)
from allocation.solvers.two_sided.dual_ascent import MOST_SWEEPS, SweepResult, imbalance, sweep
from allocation.solvers.two_sided.first_candidates import (
    EXTRA,
    SMALL,
    WIDE,
    first_candidates,
    sample_of,
    sampled_tokens,
)
from allocation.solvers.two_sided.pricing import AllEdges, Band, all_edges
from allocation.solvers.two_sided.side_prices import Candidates, SweepProblem
from allocation.solvers.work_limit import WorkLimit

# Edges of each token and of each feature nearest to their prices that stay open, at least.
OPEN = 6
# As many where prices to start from may be a little off, and the share of the matches misplaced by prices too far off.
OPEN_WARM = 20
MISPLACED = 0.25
# Edges to keep of those above their prices: for each match, and as many for each line where its price is not a guess.
KEPT = 4
# Bands gathered around better and better prices, and the share of the edges that may be out of balance in the last.
MOST_BANDS = 6
ROUGH = 128
# Multiple of the largest score within which prices to start from are taken as they are.
BEYOND = 4.0
# Share of the lines whose prices may leave the band before it is gathered again.
STRAYING = 0.01
# Distance of prices where all scores are 0: so small that it loosens no proof.
SMALLEST = 2.0**-960
# Imbalance that paths settle sooner than further sweeps would.
SETTLED = 24


class StartingPoint:
    """The sweeps and passes of one solve before its first shortest path, counted; a pass over a sample is one too."""

    def __init__(
        self, problem: Problem, network: Network, edges: AllEdges, work_limit: WorkLimit, compiled: bool = False,
        small: int = SMALL,
    ) -> None:  # fmt: skip
        self.problem, self.network, self.edges, self.work_limit = problem, network, edges, work_limit
        self.compiled, self.small = compiled, small
        # where no grid holds the scores, refinement goes on from prices, which sweeps bring near
        self.far_apart = compiled and far_apart(problem.matrix)
        self.structured = False  # sweeps leave so much out of balance that OR-tools goes on
        self.passes = self.sweeps = 0

    def run(self, start: Reals | None) -> tuple[Reals, Candidates, Indices]:
        """Prices from sweeps, open edges near them, and the ids of matches far above them."""
        none = np.empty(0, np.int64)
        current, fixed = self.edges.candidates(none), none
        if start is not None:
            # prices far beyond the scores would come with rounding beyond the scores
            largest = BEYOND * self._largest_score()
            start = np.clip(start, -largest, largest)
        around = None if start is None or not self.large else self._band_of_sample(start)
        if start is not None and around is not None:
            swept, band = SweepResult(start, 0, 0), around
        else:
            start = None if self.large else start
            candidates, start = self._first(start)
            if candidates.ids.size == self.problem.matrix.n_edges:
                return self._swept(candidates, none, start, SETTLED).prices, candidates, none
            enough = candidates.ids.size // ROUGH
            swept = self._swept(
                candidates, none, start, enough, most=1 if self.compiled and not self.far_apart else MOST_SWEEPS
            )
            if self.compiled and not self.far_apart and swept.imbalance <= IN_VAIN:
                swept = self._swept(candidates, none, start, enough)
            self.structured = self.compiled and not self.far_apart and swept.imbalance > LEAST_IMBALANCE
            if self._all_join(swept.imbalance):
                candidates = self.edges.candidates(self.problem.matrix.allowed())
                if not self.structured:
                    swept = self._swept(candidates, none, None, SETTLED)
                return swept.prices, candidates, none
            if self.structured:
                return swept.prices, candidates, none
            band = self.band(candidates, swept.prices)
        for band_round in range(MOST_BANDS):
            self.work_limit.check()
            still_near = self._profit(current, swept.prices) > -2 * band.at(current.tokens, current.features)
            per_line = OPEN_WARM if around is not None and band_round == 0 else KEPT
            ids = union(self._above(swept.prices, band, per_line), current.ids[still_near])
            candidates = self.edges.candidates(ids)
            off = imbalance(self.sweep_problem(candidates, none, None), swept.prices)
            far = self._safely_matched(
                candidates, self._profit(candidates, swept.prices) >= band.at(candidates.tokens, candidates.features)
            )
            current, fixed = _part(candidates, ~far), candidates.ids[far]
            before, swept = swept, self._swept(current, fixed, swept.prices, SETTLED, band)
            # what sweeps over the candidates could not settle, more candidates will not
            if swept.prices is before.prices or off <= max(4 * SETTLED, before.imbalance * 5 // 4):
                break
            if swept.imbalance <= 4 * SETTLED and self._within(band, before.prices, swept.prices):
                break
            band = self.band(candidates, swept.prices)
        return swept.prices, current, fixed

    def _all_join(self, imbalance: int) -> bool:
        """Whether prices that do not settle tell so badly which edges matter that all are taken, being few enough.

        OR-tools needs them only where floors do; where most scores tie, any will do.
        """
        matrix = self.problem.matrix
        if not self.structured:
            few = imbalance > LEAST_IMBALANCE and matrix.n_edges <= SMALL
        else:
            few = imbalance > FAR_OFF and matrix.n_edges <= ALL_EDGES and bool((self.network.lower > 0).any())
        return few and not mostly_ties(matrix)

    @property
    def large(self) -> bool:
        """Whether it pays to leave edges out."""
        return self.problem.matrix.dense is not None and self.problem.matrix.n_edges > self.small

    def _first(self, start: Reals | None) -> tuple[Candidates, Reals | None]:
        """Edges to begin with, and prices from a sample of the tokens if there are none yet."""
        tokens = sampled_tokens(self.problem)
        if self.large and tokens.size < self.problem.shape[0]:
            sampled = self._sampled(tokens)
            if sampled is not None:
                start, band = sampled
                return self.edges.candidates(self._above(start, band)), start
        self.passes += 1
        return self.edges.candidates(first_candidates(self.edges, self.network, self.small)), start

    def _sampled(self, tokens: Indices) -> tuple[Reals, Band] | None:
        """Prices of the problem of these tokens, for single tokens the least of theirs, and a band around them.

        None where sweeps do not settle: prices of a sample that has a structure are far from those of all.
        """
        problem = sample_of(self.problem, tokens)
        edges = all_edges(problem, self.edges.workers, self.work_limit)
        sample = StartingPoint(problem, network_of(problem), edges, self.work_limit, self.compiled, self.small)
        prices, current, _ = sample.run(None)
        if sample.structured:
            return None
        band = sample.band(current, prices)
        self.passes, self.sweeps = self.passes + sample.passes, self.sweeps + sample.sweeps
        n_tokens = self.problem.shape[0]
        width = np.full(n_tokens, float(np.median(band.tokens)))
        least = np.full(n_tokens, float(prices[: tokens.size].min()))
        return np.concatenate([least, prices[tokens.size :]]), Band(width, band.features)

    def _above(self, prices: Reals, band: Band | None, per_line: int = KEPT) -> Indices:
        """Ids of the edges above their prices less the band, and enough edges of lines that must reach a limit."""
        network = self.network
        rows, columns = network.line_prices(prices)
        n_tokens, n_features = network.shape
        ranks = np.minimum(WIDE * np.minimum(network.upper[:n_tokens], n_features) + EXTRA, n_features)
        ids = self.edges.above(rows, columns, band, per_line * network.n_nodes + KEPT * network.most_matches, ranks)
        self.passes += 1
        parts = [ids]
        for side, ends in enumerate(self.edges.ends(ids)):
            arcs = network.lines[side]
            needed = np.where(prices[arcs] > 0, network.upper[arcs], network.lower[arcs])
            counts = np.bincount(ends, minlength=needed.size)
            poor = np.flatnonzero((needed > 0) & (counts < needed + EXTRA // 2))
            if poor.size:
                wanted = needed[poor] + EXTRA // 2
                parts.append(self.edges.best_of_lines(side, poor, wanted, (columns, rows)[side]))
        return union(*parts) if len(parts) > 1 else ids

    def _safely_matched(self, candidates: Candidates, far: Mask) -> Mask:
        """Of the edges far above their prices, those at whose limits not too many lie: those prices are wrong."""
        network = self.network
        wrong = network.counts_of(candidates.tokens[far], candidates.features[far]) > network.upper
        for level in network.levels:
            if wrong[level.arcs].any():
                lines = (level.arc_of >= 0) & wrong[level.arc_of]
                far = far & ~lines[(candidates.tokens, candidates.features)[level.side]]
        return far

    def _swept(
        self, open_edges: Candidates, fixed: Indices, start: Reals | None, enough: int, band: Band | None = None,
        most: int = MOST_SWEEPS,
    ) -> SweepResult:  # fmt: skip
        result = sweep(
            self.sweep_problem(open_edges, fixed, band),
            start,
            enough,
            self.work_limit,
            min(most, MOST_PRICE_SWEEPS) if self.compiled else most,
        )
        self.sweeps += result.sweeps
        return result

    def sweep_problem(self, open_edges: Candidates, fixed: Indices, band: Band | None) -> SweepProblem:
        """The price sweeps of open edges, beside matches outside them."""
        counts = self.network.counts_of(*self.edges.ends(fixed))
        truncated = open_edges.ids.size < self.problem.matrix.n_edges
        scores = open_edges.scores
        spread = float(np.ptp(scores)) or float(np.abs(scores[0])) if scores.size else 0.0
        unit = np.full(counts.size, (spread or SMALLEST) / 64)
        if band is not None:
            widths = np.concatenate([band.tokens, band.features])
            unit = np.concatenate([widths, np.full(counts.size - widths.size, np.median(widths))]) / 2
        return SweepProblem(self.network, open_edges, counts, truncated, unit)

    def band(self, candidates: Candidates, prices: Reals) -> Band:
        """A band around the prices that holds some edges of every token and of every feature, whatever their scale."""
        size = np.abs(self._profit(candidates, prices))
        shares = []
        by_size = np.argsort(size)
        for ends, size_of_side in zip((candidates.tokens, candidates.features), self.network.shape, strict=True):
            order = by_size[stable_order(ends[by_size], size_of_side)]
            counts = np.bincount(ends, minlength=size_of_side)
            starts = np.cumsum(counts) - counts
            width = np.zeros(size_of_side)
            nonempty = np.flatnonzero(counts)
            width[nonempty] = size[order[starts[nonempty] + np.minimum(counts[nonempty], OPEN) - 1]]
            shares.append(np.maximum(width, float(np.finfo(float).tiny)))
        return Band(*shares)

    def _band_of_sample(self, prices: Reals) -> Band | None:
        """A band around given prices, from the edges of a few tokens; None if the prices are not worth a pass."""
        tokens, scores = self._sample_scores()
        rows, columns = self.network.line_prices(prices)
        profit = reduced_profit(np, scores, rows[tokens], columns)
        share = tokens.size / self.problem.shape[0]
        if self._misplaced(profit, tokens, prices) > MISPLACED * share * self.network.most_matches:
            return None
        size = np.abs(profit)
        size[size == np.inf] = 0.0  # forbidden
        widths = []
        for axis, wanted in ((1, float(OPEN_WARM)), (0, OPEN_WARM * share)):
            # one order statistic is a rough guess where few are wanted; a few more tell as much, and less roughly
            rank = min(max(round(wanted), OPEN), size.shape[axis])
            reach = np.take(np.partition(size, rank - 1, axis=axis), rank - 1, axis=axis)
            widths.append(reach * min(wanted / rank, 1.0))
        n_tokens = self.problem.shape[0]
        tiny = float(np.finfo(float).tiny)
        return Band(np.full(n_tokens, max(float(np.median(widths[0])), tiny)), np.maximum(widths[1], tiny))

    def _misplaced(self, profit: Reals, tokens: Indices, prices: Reals) -> float:
        """Matches too many or too few of some tokens, and of the features as far as these tokens tell."""
        network = self.network
        share = tokens.size / self.problem.shape[0]
        total = 0.0
        above, level = profit > 0, profit >= 0
        for axis, arcs, part in ((1, tokens, 1.0), (0, np.arange(self.problem.shape[0], network.budget_arc), share)):
            least = np.where(prices[arcs] > 0, network.upper[arcs], network.lower[arcs]) * part
            most = np.where(prices[arcs] < 0, network.lower[arcs], network.upper[arcs]) * part
            # a sample of a count is off by about its root
            chance = 2 * np.sqrt(np.maximum(least, 0.0)) if part < 1 else 0.0
            few, many = least - chance - level.sum(axis=axis), above.sum(axis=axis) - most - chance
            of_lines = float(np.maximum(few, 0.0).sum() + np.maximum(many, 0.0).sum())
            # together lines tell more than each: of what few of them lack the chance of each may hide all
            together = max(float(least.sum() - level.sum()), float(above.sum() - most.sum()))
            total += max(of_lines, together)
        return total

    def _sample_scores(self) -> tuple[Indices, Reals]:
        """A few tokens and their scores."""
        matrix, tokens = self.problem.matrix.dense, sampled_tokens(self.problem)
        assert matrix is not None  # candidate edges are all taken
        return tokens, matrix.part(tokens).numbers.astype(np.float64)

    def _largest_score(self) -> float:
        """The largest absolute score, of a sample of the tokens if there are many."""
        matrix = self.problem.matrix
        scores = matrix.numbers.astype(np.float64) if matrix.dense is None else self._sample_scores()[1]
        return float(np.abs(scores[scores > -np.inf]).max(initial=0.0))

    def _within(self, band: Band, before: Reals, after: Reals) -> bool:
        """Whether the prices of nearly all lines moved by less than the band, but for what one side pays the other."""
        (rows, columns), (new_rows, new_columns) = self.network.line_prices(before), self.network.line_prices(after)
        shift = float(np.median(new_rows - rows)) if rows.size else 0.0
        moved = (np.abs(new_rows - rows - shift), band.tokens), (np.abs(new_columns - columns + shift), band.features)
        return all(np.mean(by > width) < STRAYING for by, width in moved)

    def _profit(self, edges: Candidates, prices: Reals) -> Reals:
        return profit_of(edges, self.network, prices)


def profit_of(edges: Candidates, network: Network, prices: Reals) -> Reals:
    """What edges score above their prices."""
    rows, columns = network.line_prices(prices)
    return edges.profit(rows, columns)


def _part(candidates: Candidates, mask: Mask) -> Candidates:
    return Candidates(candidates.ids[mask], candidates.tokens[mask], candidates.features[mask], candidates.scores[mask])
