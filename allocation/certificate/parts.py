"""What several ranks hold of one problem and of one answer, put together for all of them.

Matches, prices and a few numbers for each line cross; the scores never do. One process is a world of one rank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from allocation.agreement import Blocks, agreed_blocks, no_edges, texts_of_all
from allocation.arrays import Array, Indices, Reals
from allocation.certificate.edges import largest_of, malformed, scores_of
from allocation.errors import InvalidProblemError
from allocation.exact_sums import exact_terms
from allocation.problem import Problem
from allocation.ranks import ALONE, Ranks
from allocation.solution import Price, Prices

# Prices of scores that are all 0 need not be.
_SMALLEST = 1e-280


@dataclass(frozen=True, eq=False)
class Claim:
    """What is claimed of the whole problem, and this rank's block of it.

    Attributes
    ----------
    problem : Problem
        The limits of the whole; its scores where one process holds them.
    block : Problem
        The scores of this rank.
    first : (int, int)
        Number of its first token and feature in the whole.
    own : (tokens, features)
        Its matches, in the block's indices.
    tokens, features, selected : vectors
        All matches in order, and their scores in float64.
    prices : Prices
        Of all limits.
    """

    ranks: Ranks
    problem: Problem
    block: Problem
    first: tuple[int, int]
    own: tuple[Indices, Indices]
    tokens: Indices
    features: Indices
    selected: Reals
    prices: Prices

    def exactly(self, values: list[float]) -> list[float]:
        """A few numbers with the sum of those of all ranks."""
        if self.ranks.count == 1:
            return values
        terms = _joined(self.ranks, np.array(exact_terms(np.array(values, np.float64)), np.float64))
        return [float(term) for term in terms]

    def of_all(self, values: Array) -> Array:
        """The vectors of all ranks, one row each."""
        return np.stack([np.asarray(part) for part in self.ranks.gather(values)])

    @property
    def size(self) -> float:
        """What objective and prices may amount to: the selected scores, and a path of the largest through all lines."""
        problem = self.problem
        largest = float(self.of_all(np.array([largest_of(self.block)])).max())
        limits = sum(problem.shape) + len(problem.token_groups) + len(problem.feature_groups) + 1
        return float(np.abs(self.selected).sum()) + limits * max(largest, _SMALLEST)

    def texts(self, own: list[str]) -> list[str]:
        """The sentences of all ranks."""
        return own if self.ranks.count == 1 else texts_of_all(self.ranks, own)


def claimed(
    checked: Callable[[], tuple[Problem, tuple[Indices, Indices, Array], Prices]], ranks: Ranks | None
) -> Claim | list[str]:
    """The claim of all ranks; or why the matches of some rank are no edges of its block.

    `checked` returns the problem, the matches and the prices, or raises what is wrong with those of this rank.
    """
    if ranks is None:
        return _of_one(*checked(), ALONE)

    def described() -> tuple[Problem, dict[str, str], tuple[tuple[Indices, Indices, Array], Prices]]:
        problem, answer, prices = checked()
        return problem, {}, (answer, prices)

    blocks, problem, (answer, prices) = agreed_blocks(ranks, described)
    _refuse_gaps(blocks)
    if ranks.count == 1:
        return _of_one(problem, answer, prices, ranks)
    (tokens, features, values), shape = answer, blocks.whole
    first = int(blocks.firsts[ranks.index, 0]), int(blocks.firsts[ranks.index, 1])
    own = malformed(problem, tokens, features, values)
    violations = texts_of_all(ranks, [f"rank {ranks.index}: {text}" for text in own])
    if violations:
        return violations
    flat = _joined(ranks, (tokens + first[0]) * shape[1] + features + first[1])
    selected = _joined(ranks, scores_of(problem, tokens, features))
    order = np.argsort(flat)
    flat, selected = flat[order], selected[order]
    all_tokens, all_features = np.divmod(flat, max(shape[1], 1))
    whole = Problem(no_edges(shape, problem.matrix.type), **problem.limits)
    sides = {}
    for axis, name in enumerate(("tokens", "features")):
        line = np.broadcast_to(np.asarray(getattr(prices, name).value, np.float64), (problem.shape[axis],))
        sides[name], disagreed = _whole_line(blocks, axis, line)
        violations += [f"ranks disagree on the price of {name}[{at}]" for at in disagreed[:1]]
    shared = np.concatenate(
        [np.atleast_1d(p.value) for p in (prices.budget, prices.token_groups, prices.feature_groups)]
    )
    if any(not np.array_equal(part, shared) for part in ranks.gather(shared)):
        violations.append("ranks disagree on the prices of the budget or of groups")
    violations = list(dict.fromkeys(texts_of_all(ranks, violations)))
    if violations:
        return violations
    prices = dataclasses.replace(prices, tokens=Price(sides["tokens"]), features=Price(sides["features"]))
    return Claim(ranks, whole, problem, first, (tokens, features), all_tokens, all_features, selected, prices)


def _of_one(
    problem: Problem, answer: tuple[Indices, Indices, Array], prices: Prices, ranks: Ranks
) -> Claim | list[str]:
    """The claim of one process about the whole."""
    tokens, features, values = answer
    violations = malformed(problem, tokens, features, values)
    if violations:
        return violations
    selected = scores_of(problem, tokens, features)
    return Claim(ranks, problem, problem, (0, 0), (tokens, features), tokens, features, selected, prices)


def _joined(ranks: Ranks, values: Array) -> Array:
    return np.concatenate([np.asarray(part) for part in ranks.gather(np.ascontiguousarray(values))])


def _whole_line(blocks: Blocks, axis: int, own: Reals) -> tuple[Reals, Indices]:
    """Prices of all lines of a side; and the lines on whose price two ranks disagree."""
    total = np.full(blocks.whole[axis], np.nan)
    disagreed = np.zeros(total.size, bool)
    for first, part in zip(blocks.firsts[:, axis], blocks.ranks.gather(np.ascontiguousarray(own)), strict=True):
        here = slice(int(first), int(first) + part.size)
        disagreed[here] |= ~np.isnan(total[here]) & (total[here] != part)
        total[here] = part
    return total, np.flatnonzero(disagreed)


def _refuse_gaps(blocks: Blocks) -> None:
    """The blocks must cover the whole matrix once."""
    filled = (blocks.sizes > 0).all(axis=1)
    starts, ends = blocks.firsts[filled], (blocks.firsts + blocks.sizes)[filled]
    meet = (starts[:, None] < ends[None]).all(axis=2) & (starts[None] < ends[:, None]).all(axis=2)
    area = sum(int(a) * int(b) for a, b in blocks.sizes)
    if meet.sum() > filled.sum() or area != blocks.whole[0] * blocks.whole[1]:
        raise InvalidProblemError("part: expected blocks that make up one whole matrix, each on one rank, found others")
