"""Counts against limits, and prices against counts: a price is due only where its limit is reached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allocation.arguments import matches_in_words
from allocation.arrays import Indices, Mask, Reals
from allocation.exact_sums import lost
from allocation.problem import Problem
from allocation.solution import Prices

# No price times its limit is larger: a path of as many scores as there are nodes, none beyond 1e280, and its edges.
_LARGEST = 1e300
# Named places in one violation: enough to find it, few enough to read.
SHOWN = 5


@dataclass(frozen=True)
class Limit:
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
        """Whether a count exceeds its cap or falls short of its floor."""
        over = self.caps is not None and bool(np.any(self.counts > self.caps))
        return over or (self.floors is not None and bool(np.any(self.counts < self.floors)))

    def violations(self) -> Iterator[str]:
        """What is wrong with counts and prices, a sentence for each kind."""
        caps = np.full(self.counts.shape, np.iinfo(np.int64).max) if self.caps is None else self.caps
        floors = np.full(self.counts.shape, -1) if self.floors is None else self.floors
        conditions = (
            (self.counts > caps, "holds {held}, above its cap {cap}"),
            (self.counts < floors, "holds {held}, below its floor {floor}"),
            (
                (self.prices > 0) & (self.counts < caps),
                "has price {price:.6g} but its cap is not reached ({count})",
            ),
            (
                (self.prices < 0) & (self.counts > floors),
                "has price {price:.6g} but its floor is not reached ({count})",
            ),
            (self.senseless, "has the price {price}"),
        )
        for broken, text in conditions:
            for at in np.flatnonzero(broken)[:SHOWN]:
                count = int(self.counts[at])
                held = matches_in_words(count)
                described = text.format(count=count, held=held, cap=caps[at], floor=floors[at], price=self.prices[at])
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


def limits_of(problem: Problem, tokens: Indices, features: Indices, prices: Prices) -> Iterator[Limit]:
    """Every block of limits with the counts of these matches; the budget comes first."""
    budget = None if problem.budget is None else np.array([problem.budget])
    yield Limit("budget", np.array([tokens.size]), None, budget, np.array([prices.budget.value], np.float64))
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
        yield Limit(f"{name}s", counts, floors, caps, np.broadcast_to(np.asarray(price.value, np.float64), (size,)))
        if groups:
            lowest, highest = -1, np.iinfo(np.int64).max  # as of lines that have none
            yield Limit(
                f"{name}_groups",
                np.array([int(counts[group.members].sum()) for group in groups]),
                np.array([lowest if g.floor is None else g.floor for g in groups]),
                np.array([highest if g.cap is None else g.cap for g in groups]),
                np.asarray(getattr(prices, f"{name}_groups").value, np.float64),
            )


def price_sums(problem: Problem, prices: Prices) -> tuple[tuple[Reals, Reals, Mask], tuple[Reals, Reals, Mask]]:
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


def idle(limits: list[Limit], tokens: Indices, features: Indices, selected: Reals, problem: Problem) -> list[str]:
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


def all_integer(selected: Reals, limits: list[Limit]) -> bool:
    """Whether these numbers are integers: their float64 sums are exact while they stay below 2^53."""
    numbers = [selected, *(limit.prices for limit in limits)]
    return all(bool(np.all(n == np.rint(n))) for n in numbers)
