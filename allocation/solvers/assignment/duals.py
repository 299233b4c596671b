"""Prices that prove a matching: the longest paths of the differences that they must keep, by policy iteration.

At an optimum every match is worth its two prices, so that one price a token tells all: that of its feature is what the
token leaves. No refused score may exceed its prices, which bounds the price of one token from below by that of another;
limits that have no price, and tokens that need none, are bounds by a number. The least prices within all bounds
are longest paths. Sweeps alone take a step of a path each; here every token remembers which bound it follows, whole
paths are evaluated at once, and the number of sweeps hardly grows with the length of the paths.

Sources: Ahuja, Magnanti, Orlin 1993, *Network Flows*, section 9.3 (optimality without negative cycles); Howard 1960
(policy iteration); Cochet-Terrasson, Gaubert, Gunawardena 1999 (for max-plus systems).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allocation.arrays import Array, Indices, Mask, Reals
from allocation.solvers.assignment.lines import Best, Lines
from allocation.solvers.assignment.matching import Floors
from allocation.solvers.followed_paths import path_lengths

EPS = float(np.finfo(np.float64).eps)
# Sweeps before giving up; hard ones take 20.
MOST_SWEEPS = 60
# A price follows a bound only if that exceeds it by so many units of rounding of the four numbers compared.
UNITS = 3.0
# The final look allows as much of the three that are added up, and a unit for its own sum; the certificate allows 8.
FINAL_UNITS = 7.0
# Gains below this share of the largest score are left to plain sweeps: paths evaluated anew would round anew.
SMALL_GAIN = 1e-12


@dataclass(frozen=True, eq=False)
class Matched:
    """A matching: for each token and each feature its partner or -1, and each token's score there (0 without)."""

    feature_of: Indices
    token_of: Indices
    scores: Reals


def matched_of(shape: tuple[int, int], tokens: Indices, features: Indices, values: Array) -> Matched:
    """A matching from the ends and scores of its matches."""
    feature_of, token_of = np.full(shape[0], -1), np.full(shape[1], -1)
    feature_of[tokens], token_of[features] = features, tokens
    scores = np.zeros(shape[0])
    scores[tokens] = values
    return Matched(feature_of, token_of, scores)


@dataclass(frozen=True, eq=False)
class Duals:
    """Prices of tokens and of features."""

    tokens: Reals
    features: Reals


class Search:
    """The prices of one matching; `exact` where scores and their sums are integers.

    Tokens that only bound each other have at least the prices to `start` from. Asked again with more edges, it goes on
    from the prices that it had.
    """

    def __init__(self, matched: Matched, floors: Floors, exact: bool, start: Reals) -> None:
        self.matched, self.floors, self.start = matched, floors, start
        self.units = 0.0 if exact else UNITS
        self.holds = matched.feature_of >= 0
        self.held = np.flatnonzero(matched.token_of >= 0)
        self.holder = matched.token_of[self.held]
        self.sweeps = 0
        self.latest: _Paths | None = None

    def run(self, lines: Lines) -> Duals | None:
        """Prices within the bounds of these edges; None if there are none, or rounding hides them."""
        least = np.where(self.holds & self.floors.tokens, -np.inf, 0.0)
        prices = self._raised(lines, _Paths(self, least, self.holds))
        if prices is None:
            return None
        loose = self.holds & (prices == -np.inf)
        if loose.any():  # bounded by nothing but each other
            paths = self.latest
            if paths is None or (paths.among != loose).any():
                paths = _Paths(self, np.where(loose, self.start, -np.inf), loose)
            among = self._raised(lines, paths)
            if among is None:
                return None
            self.latest = paths
            prices = np.where(loose, among + min(0.0, self._room(lines, among, prices, loose)), prices)
        return self._proved(lines, prices)

    def nearly(self) -> tuple[Reals, Reals]:
        """Prices that may break a few bounds, for a matching that may not be quite the best."""
        prices = np.zeros(self.holds.size) if self.latest is None else self.latest.prices
        prices = np.where(prices > -np.inf, prices, 0.0)
        return prices, self._left(prices, self.holds)

    def _left(self, prices: Reals, of: Mask) -> Reals:
        """What these tokens leave for their features; closed features are those of the others that are matched."""
        left = np.zeros(self.matched.token_of.size)
        worth = self.matched.scores[self.holder] - prices[self.holder]
        left[self.held] = worth if of is self.holds else np.where(of[self.holder], worth, np.inf)
        return left

    def _raised(self, lines: Lines, paths: _Paths) -> Reals | None:
        """The least prices of the tokens of these paths; -inf where nothing bounds them."""
        for _ in range(MOST_SWEEPS):
            left = paths.left()
            if not (left < np.inf).any():
                return paths.prices
            self.sweeps += 1
            if not paths.raised(lines.best(left), left):
                return None if paths.circular else paths.prices
            self.latest = paths
        return None

    def _room(self, lines: Lines, among: Reals, prices: Reals, loose: Mask) -> float:
        """How far the loose prices may rise, all together; negative if they must fall."""
        left = self._left(among, loose)
        left[self.matched.token_of < 0] = np.inf
        unforced = loose & ~self.floors.features[self.matched.feature_of]
        room = float((self.matched.scores - among)[unforced].min(initial=np.inf))
        others = ~loose
        if others.any():
            room = min(room, float((prices - lines.best(left).profit)[others].min()))
        return room

    def _proved(self, lines: Lines, prices: Reals) -> Duals | None:
        """The prices of both sides, if every bound holds."""
        left = self._left(prices, self.holds)
        held = self.matched.token_of >= 0
        unforced = held & ~self.floors.features
        rounding = FINAL_UNITS * EPS if self.units else 0.0
        token = self.matched.token_of[unforced]
        short = left[unforced] < -rounding * (np.abs(self.matched.scores[token]) + np.abs(prices[token]))
        if short.any() or (prices[self.holds & ~self.floors.tokens] < 0).any():
            return None
        left[unforced] = np.maximum(left[unforced], 0.0)
        return None if lines.exceeding(prices, left, rounding).size else Duals(prices, left)


class _Paths:
    """Prices on their way up, and which bound each follows; `circular` once bounds follow each other in a circle."""

    def __init__(self, search: Search, prices: Reals, among: Mask) -> None:
        self.search, self.prices = search, prices
        self.whole = bool((among == search.holds).all())
        self.among = search.holds if self.whole else among
        self.follows = np.full(prices.size, -1)
        self.length = prices.copy()
        self.circular = False
        self.small = SMALL_GAIN * float(np.abs(search.matched.scores).max(initial=0.0)) if search.units else -1.0

    def left(self) -> Reals:
        """What the tokens leave for their features, those of others closed."""
        left = self.search._left(self.prices, self.among)
        if not self.whole:
            left[self.search.matched.token_of < 0] = np.inf
        return left

    def raised(self, best: Best, left: Reals) -> bool:
        """Raise what lies below these bounds by more than rounding, and all that follows it; False if nothing does."""
        matched, prices = self.search.matched, self.prices
        bound, at = best.profit, best.features
        source = matched.token_of[at]
        own = np.where(source >= 0, matched.scores[source], 0.0)
        with np.errstate(invalid="ignore"):
            gain = bound - prices
            if not (gain > 0).any():
                return False
            size = np.abs(bound) + np.where(np.isfinite(prices), np.abs(prices), 0.0)
            size += 2 * np.where(source >= 0, np.abs(left[at]), 0.0)
            more = self.among & (source != np.arange(prices.size)) & (bound > -np.inf)
            more &= gain > self.search.units * EPS * size
        raised = np.flatnonzero(more)
        if not raised.size:
            return False
        if float(gain[raised].max()) > self.small:
            self.follows[raised] = source[raised]
            self.length[raised] = (best.scores - own)[raised]
            followed = path_lengths(self.follows, self.length)
            if followed is None:
                self.circular = True
                return False
            prices = np.maximum(prices, followed)
        prices = prices.copy()
        prices[raised] = np.maximum(prices[raised], bound[raised])
        self.prices = prices
        return True
