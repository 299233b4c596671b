"""Which edges of rough scores may reach given prices: one pass over the matrix, and none where its answer holds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from allocation.arrays import Indices, Mask, Reals, true_positions
from allocation.problem import Problem
from allocation.rough import Rough
from allocation.solution import Prices
from allocation.threads import Block, map_runs

# By which share of a typical error exact prices may lie below the approximate ones before edges are asked for again.
MARGIN = 1 / 4
# Slack of comparisons, relative to what is added up: in float32, where most edges are ruled out, and in float64.
COARSE, FINE = 2.0**-20, 2.0**-40
# Tokens whose error is so many times the usual one have thresholds of their own.
UNUSUAL = 1.5
# What a threshold may rise when it becomes a number of the scores' type, relative to it and absolutely; and the
# smallest of these numbers.
ROUNDED = {
    "float16": (2.0**-10, 2.0**-24, 2.0**-24),
    "bfloat16": (0.0, 2.0**-126, 2.0**-149),
    "float32": (0.0, 2.0**-126, 2.0**-149),
}
# Scores compared at once; thresholds are made anew for each block.
BLOCK_BYTES = 1 << 22
# Share of the features that may be compared in numbers, with one threshold each, beside the pass over bit patterns.
FEW = 1 / 4


@dataclass(frozen=True)
class Thresholds:
    """What a score has to reach: the sum of two numbers, one of its token and one of its feature."""

    tokens: Reals
    features: Reals

    @classmethod
    def of(cls, problem: Problem, prices: Prices) -> Thresholds:
        """The prices of every pair."""
        sums = []
        for size, base, lines, groups, of_groups in (
            (problem.shape[0], prices.budget.value, prices.tokens, problem.token_groups, prices.token_groups),
            (problem.shape[1], 0.0, prices.features, problem.feature_groups, prices.feature_groups),
        ):
            total = np.full(size, base, np.float64) + lines.value
            for group, value in zip(groups, np.atleast_1d(of_groups.value), strict=True):
                total[group.members] += value
            sums.append(total)
        return cls(*sums)

    def lowered(self, rough: Rough, margin: float = MARGIN) -> Thresholds:
        """A little less, in units of a token's own error, or of the usual one where all tokens have one threshold."""
        if not self.tokens.size or not self.features.size:
            return self
        errors = rough.per_token if np.ptp(self.tokens) else np.median(rough.per_token)
        prices = np.abs(self.tokens) + np.abs(self.features).max()
        by = margin * (errors * float(np.median(rough.per_feature)) + rough.relative * prices)
        return Thresholds(self.tokens - by, self.features)

    def sunk_to(self, other: Thresholds) -> Thresholds:
        """No higher than either of two for any pair; the lower one for every pair, where all tokens have one number."""
        tokens = np.minimum(self.tokens, other.tokens)
        mine = theirs = 0.0
        if tokens.size and not np.ptp(self.tokens) and not np.ptp(other.tokens):
            mine, theirs = self.tokens[0] - tokens[0], other.tokens[0] - tokens[0]
        return Thresholds(tokens, np.minimum(self.features + mine, other.features + theirs))

    def raised(self, other: Thresholds) -> Thresholds:
        """The higher ones of two."""
        return Thresholds(np.maximum(self.tokens, other.tokens), np.maximum(self.features, other.features))

    def cover(self, other: Thresholds) -> bool:
        """Whether for no pair less is asked for than there."""
        if not self.tokens.size or not self.features.size:
            return True
        return bool((self.tokens - other.tokens).min() + (self.features - other.features).min() >= 0)


@dataclass(eq=False)
class Reach:
    """The edges whose upper bound reaches some thresholds; what reaches higher ones is among them.

    Attributes
    ----------
    ids : ascending
    near, upper : (edges,) float64
        Their approximate scores and upper bounds.
    """

    asked: Thresholds | None = None
    ids: Indices = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    near: Reals = dataclasses.field(default_factory=lambda: np.empty(0))
    upper: Reals = dataclasses.field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, rough: Rough) -> Reach:
        """What is known of these scores already, empty at first."""
        reach: Reach = rough.memory.setdefault(cls.__name__, cls())
        return reach

    def ids_from(
        self, rough: Rough, thresholds: Thresholds, only_positive: bool = False, workers: int | None = None
    ) -> Indices:
        """Ascending ids of the edges whose upper bound reaches its threshold, of positive ones alone if so asked."""
        mask = self.mask_from(rough, thresholds, only_positive, workers)  # which may find the ids anew
        return self.ids[mask]

    def mask_from(
        self, rough: Rough, thresholds: Thresholds, only_positive: bool = False, workers: int | None = None
    ) -> Mask:
        """The same as a mask of `ids`, which first are found anew where they are too few."""
        if self.asked is None or not thresholds.cover(self.asked):
            self.asked = thresholds
            self._take(rough, _may_reach(rough, thresholds, workers))
        reaches = _reaches(rough, thresholds, self.ids, self.upper)
        return reaches & (self.upper > 0) if only_positive else reaches

    def _take(self, rough: Rough, ids: Indices) -> None:
        assert self.asked is not None
        near = rough.approximate.values_at(ids).astype(np.float64)
        with np.errstate(invalid="ignore"):  # of forbidden pairs
            upper = near + (1 + FINE) * rough.errors_at(*rough.ends(ids), near)
        keep = _reaches(rough, self.asked, ids, upper) & (near > -np.inf)
        self.ids, self.near, self.upper = ids[keep], near[keep], upper[keep]


def _reaches(rough: Rough, thresholds: Thresholds, ids: Indices, upper: Reals) -> Mask:
    tokens, features = rough.ends(ids)
    of_tokens, of_features = thresholds.tokens[tokens], thresholds.features[features]
    return np.asarray(upper >= of_tokens + of_features - FINE * (np.abs(of_tokens) + np.abs(of_features)))


def _may_reach(rough: Rough, thresholds: Thresholds, workers: int | None) -> Indices:
    """Ascending ids of all edges that reach, and of some that do not: compared with one threshold a line of a block."""
    rows, columns = rough.shape
    if not rows or not columns:
        return np.empty(0, np.int64)
    one_each = np.ptp(thresholds.tokens) == 0, np.ptp(thresholds.features) == 0
    mask = _by_columns if one_each[0] else _by_rows if one_each[1] else _by_numbers
    if rough.relative >= 1:  # scores below 0 may come up to any threshold
        mask = _by_numbers

    def of_run(run: list[Block]) -> Indices:
        found = true_positions(mask(rough, thresholds, slice(*block)) for block in run)
        assert found is not None
        return np.asarray(found + run[0][0] * columns)

    parts = map_runs(of_run, rows, rough.approximate.array.nbytes, workers, BLOCK_BYTES)
    return np.concatenate(parts)


def _by_columns(rough: Rough, thresholds: Thresholds, rows: slice) -> Mask:
    """Every feature has a threshold for the block: tokens differ by their errors alone."""
    errors = rough.per_token[rows]
    usual = errors <= UNUSUAL * np.median(errors)
    least = _least(rough, thresholds.tokens[rows.start] + thresholds.features, errors[usual].max() * rough.per_feature)
    mask: Mask = rough.approximate.ordered[rows] >= rough.approximate.encoded(least)
    for row in np.flatnonzero(~usual):
        mask[row] = _numbers(rough, slice(rows.start + row, rows.start + row + 1), slice(None)) >= _least(
            rough, thresholds.tokens[rows.start] + thresholds.features, errors[row] * rough.per_feature
        )
    return _with_low(rough, mask, rows, least)


def _by_rows(rough: Rough, thresholds: Thresholds, rows: slice) -> Mask:
    """Every token has a threshold: features differ by their errors alone."""
    errors = rough.per_feature
    usual = errors <= UNUSUAL * np.median(errors)
    base = thresholds.tokens[rows] + thresholds.features[0]
    least = _least(rough, base, rough.per_token[rows] * errors[usual].max())
    if (least <= 0).any():
        return _by_numbers(rough, thresholds, rows)
    mask: Mask = rough.approximate.ordered[rows] >= rough.approximate.encoded(least)[:, None]
    others = np.flatnonzero(~usual)
    if others.size:
        of_others = _least(rough, base[:, None], rough.per_token[rows, None] * errors[others])
        mask[:, others] = _numbers(rough, rows, others) >= of_others
    return mask


def _with_low(rough: Rough, mask: Mask, rows: slice, least: Reals) -> Mask:
    """Bit patterns compare above 0 alone: features whose threshold is not are compared in numbers."""
    low = np.flatnonzero(~(least > 0))
    if low.size > FEW * least.size:
        numbers = _numbers(rough, rows, slice(None))
        with np.errstate(over="ignore"):  # a threshold far below all scores may become -inf
            mask |= numbers >= np.where(least > 0, np.inf, least).astype(numbers.dtype)
    elif low.size:
        mask[:, low] |= _numbers(rough, rows, low) >= least[low]
    return mask


def _by_numbers(rough: Rough, thresholds: Thresholds, rows: slice) -> Mask:
    """Every pair has a threshold of its own."""
    errors = rough.per_token[rows].max() * rough.per_feature
    numbers = _numbers(rough, rows, slice(None))
    of_tokens = thresholds.tokens[rows] - COARSE * np.abs(thresholds.tokens[rows])
    of_features = thresholds.features - errors - COARSE * (np.abs(thresholds.features) + errors)
    with np.errstate(over="ignore", invalid="ignore"):  # thresholds may become -inf, sums of forbidden pairs anything
        if rough.relative:
            share = numbers.dtype.type(rough.relative * (1 + COARSE))
            numbers = numbers + share * np.abs(np.maximum(numbers, np.finfo(numbers.dtype).min))
        return np.asarray(numbers >= of_tokens.astype(numbers.dtype)[:, None] + of_features.astype(numbers.dtype))


def _numbers(rough: Rough, rows: slice, columns: Any) -> Any:
    return rough.approximate.widened(np.ascontiguousarray(rough.approximate.array[rows][:, columns]))


def _least(rough: Rough, base: Reals, errors: Reals) -> Reals:
    """A little less than the least approximate score whose upper bound reaches `base`."""
    least = base - errors - COARSE * (np.abs(base) + errors)
    # a score below 0 comes up by its relative error too
    below = least / (1 - rough.relative) if rough.relative < 1 else np.full_like(least, -np.inf)
    least = np.where(least > 0, least / (1 + rough.relative), below)
    share, step, smallest = ROUNDED.get(rough.approximate.type, (0.0, 0.0, 0.0))
    least = least - (COARSE + share) * np.abs(least) - step
    return np.where((least > 0) & (least < smallest), 0.0, least)  # no pattern lies between
