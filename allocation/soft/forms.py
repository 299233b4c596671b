"""The two soft forms: how a score's distance to its price becomes a share between 0 and 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from allocation.arrays import Reals

# Where shares end, by the bytes of a number. In float32, which is for points on the way, all smaller ones of a line do
# not tell.
TAIL: dict[int, Any] = {4: np.float32(45.0), 8: np.float64(700.0)}


class Form(Protocol):
    """A strictly concave term `R` on [0, 1], with `R(0) = R(1) = 0`, and what maximises `x a + R(a)`."""

    def evaluate(self, x: Reals, shares: Reals, slopes: Reals) -> None:
        """Write the maximiser `a(x)` and its slope `a'(x)`; 0 and 0 at -inf. `x` is used up."""

    def term(self, shares: Reals) -> float:
        """`R` summed over all shares."""

    def margin(self, size: int) -> float:
        """A distance beyond which `size` shares together are below 1, or above `size - 1`."""


@dataclass(frozen=True)
class Entropy:
    """Binary entropy: `R(a) = -a log a - (1 - a) log(1 - a)`, `a(x) = sigmoid(x)`."""

    def evaluate(self, x: Reals, shares: Reals, slopes: Reals) -> None:
        """Both tails with full relative accuracy, from `exp(-|x|)`, which never overflows.

        Tails end where they no longer matter: processors are slow at subnormal numbers.
        """
        above = x >= 0
        np.abs(x, out=x)
        end = TAIL[x.dtype.itemsize]
        matters = x < end
        np.minimum(x, end, out=x)
        tail = np.exp(np.negative(x, out=x), out=x)
        tail *= matters
        np.add(tail, 1.0, out=shares)
        np.divide(1.0, shares, out=shares)
        tail *= shares
        np.multiply(tail, shares, out=slopes)
        np.copyto(shares, tail, where=~above)

    def term(self, shares: Reals) -> float:
        """Binary entropy in nats."""
        inner = shares[(shares > 0) & (shares < 1)]
        return float(-(inner * np.log(inner) + (1.0 - inner) * np.log1p(-inner)).sum())

    def margin(self, size: int) -> float:
        """`size * sigmoid(-log(size)) < 1`."""
        return math.log(max(size, 1))


@dataclass(frozen=True)
class Clipped:
    """Quadratic: `R(a) = a (1 - a) / 2`, `a(x) = clip(x + 1/2, 0, 1)`."""

    def evaluate(self, x: Reals, shares: Reals, slopes: Reals) -> None:
        """Linear between -1/2 and 1/2, with slope 1 there and 0 outside."""
        x += 0.5
        np.clip(x, 0.0, 1.0, out=shares)
        slopes[...] = (x > 0) & (x < 1)

    def term(self, shares: Reals) -> float:
        """Half of `a (1 - a)`."""
        return float((shares * (1.0 - shares)).sum() / 2)

    def margin(self, size: int) -> float:
        """Shares end at this distance."""
        return 0.5


FORMS: dict[str, Form] = {"entropy": Entropy(), "clipped": Clipped()}
