"""Where float64 holds every sum that decides, the certificate has no tolerance."""

from __future__ import annotations

import math

import numpy as np

from allocation.arrays import Indices, Mask, Reals
from allocation.certificate.parts import Claim
from allocation.exact_sums import lost, unit_of

# A float64 sum of at most four prices and a score, each rounded, is off by less than this many units.
UNITS = 8.0
EPS = float(np.finfo(np.float64).eps)


class LastBits:
    """Whether float64 held all sums that decide, and what the matches may miss of the optimum is nothing.

    Where the prices go with the limits, dual minus primal objective is what edges on the wrong side of their prices are
    there. Any two allocations of edges near their prices differ by a multiple of the unit of their scores, and one with
    another edge scores less by the reach: a difference below both is none.
    """

    def __init__(self, largest: float, prices: tuple[Reals, Reals], held: tuple[Mask, Mask]) -> None:
        self.reach = 4 * UNITS * EPS * largest
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

    def joined(self, of_block: LastBits, claim: Claim) -> LastBits:
        """With what every rank found in its block."""
        found = claim.of_all(np.array([of_block.exact, of_block.unit, of_block.wrong], np.float64))
        self.exact = self.exact and bool(found[:, 0].all())
        self.unit, self.wrong = min(self.unit, float(found[:, 1].min())), self.wrong + float(found[:, 2].sum())
        return self

    def prove(self) -> bool:
        """Whether no allocation is better at all."""
        return self.exact and 2 * self.wrong < min(self.unit, self.reach)
