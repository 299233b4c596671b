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
from allocation.solvers.assignment.lines import EPS, Lines
from allocation.solvers.assignment.matching import Floors

# Sweeps before giving up; hard ones take 20.
MOST_SWEEPS = 60
# A price follows a bound only if it exceeds it by so many units of rounding; the certificate allows twice as many.
UNITS = 3.0
# The final look allows a little more: what sweeps leave alone has passed by sums rounded in another order.
FINAL_UNITS = 4.0
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
    """Prices of tokens and of features, and of each token the feature that it was last drawn to."""

    tokens: Reals
    features: Reals
    nearest: Indices
    sweeps: int


class Search:
    """The prices of one matching; `exact` where scores and their sums are integers."""

    def __init__(self, lines: Lines, matched: Matched, floors: Floors, exact: bool) -> None:
        self.lines, self.matched, self.floors = lines, matched, floors
        self.units = 0.0 if exact else UNITS
        self.holds = matched.feature_of >= 0
        self.sweeps = 0
        self.nearest = np.zeros(self.holds.size, np.int64)
        self.latest = np.zeros(self.holds.size)

    def run(self) -> Duals | None:
        """Prices within all bounds; None if there are none, or rounding hides them."""
        least = np.where(self.holds & self.floors.tokens, -np.inf, 0.0)
        prices = self._raised(least, self.holds)
        if prices is None:
            return None
        loose = self.holds & (prices == -np.inf)
        if loose.any():  # bounded by nothing but each other
            start = np.where(loose, 0.0, -np.inf)
            among = self._raised(start, loose)
            if among is None:
                return None
            prices[loose] = (among + min(0.0, self._room(among, prices, loose)))[loose]
        return self._proved(prices)

    def nearly(self) -> tuple[Reals, Reals]:
        """Prices that may break a few bounds, for a matching that may not be quite the best."""
        prices = np.where(self.latest > -np.inf, self.latest, 0.0)
        return prices, self._left(prices, self.holds)

    def _left(self, prices: Reals, of: Mask) -> Reals:
        """What these tokens leave for their features; closed features are those of the others that are matched."""
        token = self.matched.token_of
        left = np.zeros(token.size)
        held = np.flatnonzero(token >= 0)
        left[held] = np.where(of[token[held]], self.matched.scores[token[held]] - prices[token[held]], np.inf)
        return left

    def _raised(self, prices: Reals, among: Mask) -> Reals | None:
        """The least prices of the tokens `among`, from lower bounds; -inf where nothing bounds them."""
        scores, token_of = self.matched.scores, self.matched.token_of
        n_tokens = prices.size
        follows = np.full(n_tokens, -1)
        length = prices.copy()
        scale = float(np.abs(scores).max(initial=0.0))
        whole = bool((among == self.holds).all())
        for _ in range(MOST_SWEEPS):
            left = self._left(prices, among)
            if not whole:
                left[token_of < 0] = np.inf
            bound, at = self.lines.best(left)
            self.sweeps += 1
            source = token_of[at]
            away = np.where(source >= 0, np.abs(left[at]), 0.0)
            with np.errstate(invalid="ignore"):
                gain = bound - prices
                size = np.abs(bound) + np.where(np.isfinite(prices), np.abs(prices), 0.0) + 2 * away
                more = among & (source != np.arange(n_tokens)) & (bound > -np.inf) & (gain > self.units * EPS * size)
            raised = np.flatnonzero(more)
            if not raised.size:
                self.nearest = np.where(among & (bound > -np.inf), at, self.nearest)
                return prices
            if float(gain[raised].max()) > SMALL_GAIN * scale or not self.units:
                follows[raised] = source[raised]
                own = np.where(source >= 0, scores[source], 0.0)
                length[raised] = (bound + left[at] - own)[raised]
                followed = _evaluated(follows, length)
                if followed is None:
                    return None
                prices = np.maximum(prices, followed)
            prices[raised] = np.maximum(prices[raised], bound[raised])
            self.latest = prices
        return None

    def _room(self, among: Reals, prices: Reals, loose: Mask) -> float:
        """How far the loose prices may rise, all together; negative if they must fall."""
        left = self._left(among, loose)
        left[self.matched.token_of < 0] = np.inf
        unforced = loose & ~self.floors.features[self.matched.feature_of]
        room = float((self.matched.scores - among)[unforced].min(initial=np.inf))
        others = ~loose
        if others.any():
            room = min(room, float((prices - self.lines.best(left)[0])[others].min()))
        return room

    def _proved(self, prices: Reals) -> Duals | None:
        """The prices of both sides, if every bound holds."""
        left = self._left(prices, self.holds)
        held = self.matched.token_of >= 0
        unforced = held & ~self.floors.features
        units = FINAL_UNITS if self.units else 0.0
        token = self.matched.token_of[unforced]
        short = left[unforced] < -units * EPS * (np.abs(self.matched.scores[token]) + np.abs(prices[token]))
        if short.any() or (prices[self.holds & ~self.floors.tokens] < 0).any():
            return None
        left[unforced] = np.maximum(left[unforced], 0.0)
        if (self.lines.surely(left, units) > prices + units * EPS * np.abs(prices)).any():
            return None
        return Duals(prices, left, self.nearest, self.sweeps)


def _evaluated(follows: Indices, length: Reals) -> Reals | None:
    """The length of each path that ends where nothing is followed; None if some go in circles.

    Halves the paths each time: every node takes over what the one it follows follows.
    """
    follows, length = follows.copy(), length.copy()
    for _ in range(follows.size.bit_length() + 1):
        going = np.flatnonzero(follows >= 0)
        if not going.size:
            return length
        ahead = follows[going]
        length[going] += length[ahead]
        follows[going] = follows[ahead]
    return None
