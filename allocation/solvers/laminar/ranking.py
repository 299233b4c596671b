"""The best of what was offered: only what a price near the guess may decide is ranked."""

from __future__ import annotations

import numpy as np

from allocation.arrays import Array, Indices, Mask
from allocation.errors import InfeasibleError
from allocation.solvers.laminar.tree import UNLIMITED, Margins, ShortageError, Tree, margins, take
from allocation.solvers.top_selection.whole import bracket_of_sample, sample_of, smallest_positive
from allocation.solvers.work_limit import WorkLimit

# Fewer items are ranked as they are.
FEW = 1 << 12
# So many of them say where prices may be.
SAMPLE = 1 << 12
# At least so many items are ranked, as a share of the budget.
RANKED = 1 / 16
# So many positions fit beside a value of 32 bits in one integer.
PACKED = 1 << 31


def best(tree: Tree, lines: Indices, scores: Array, work_limit: WorkLimit) -> tuple[Mask, Margins]:
    """Which items are taken, and what one more and one less are worth; of equal scores the earlier item is better.

    Raises
    ------
    InfeasibleError, ShortageError
        As `tree.take`.
    """
    decided = _decided(tree, lines, scores)
    if decided is not None:
        sure, others = decided
        left = tree.without(np.bincount(lines[sure], minlength=tree.leaves))
        try:
            return _beside(sure, others, left, lines, scores, work_limit)
        except (InfeasibleError, ShortageError):
            pass  # floors force more than was guessed, or a message has to count all
    return _beside(np.zeros(scores.size, bool), None, tree, lines, scores, work_limit)


def _beside(
    sure: Mask, others: Indices | None, left: Tree, lines: Indices, scores: Array, work_limit: WorkLimit
) -> tuple[Mask, Margins]:
    """What is sure and the best of the others (None: of all), under the limits that are left for them."""
    order = descending(scores) if others is None else others[descending(scores[others])]
    leaf, ranked = lines[order], scores[order]
    chosen = take(left, leaf, ranked > 0, work_limit)
    sure[order[chosen]] = True
    return sure, margins(left, leaf, ranked.astype(np.float64), chosen)


def _decided(tree: Tree, lines: Indices, scores: Array) -> tuple[Mask, Indices] | None:
    """What is taken if floors leave room for it, and what else may be taken; None if that is no help.

    Without caps below the budget, and with floors of lines alone, the best items are refused only where floors force
    too many others, which `take` tells. Of items worse than more than the budget holds, none is taken but where a line
    lacks better ones, and none sets a price: the best that is refused is not among them.
    """
    root, leaves = tree.root, tree.leaves
    budget = int(tree.caps[root])
    if not FEW <= budget < scores.size or (tree.caps[:root] != UNLIMITED).any() or (tree.floors[leaves:] > 0).any():
        return None
    sample = sample_of(scores, SAMPLE)
    end = bracket_of_sample(sample, budget, scores.size)[0]
    near = scores >= end
    if np.count_nonzero(near) <= budget and end > smallest_positive(scores.dtype):
        return None
    lacking = tree.floors[:leaves] - np.bincount(lines[near], minlength=leaves)
    missing = int(lacking.sum(where=lacking > 0))
    # those that the missing ones push out leave other lines short
    number = budget - 2 * missing - int(RANKED * budget)
    if number < budget // 2:
        return None
    sure = scores > bracket_of_sample(sample, number, scores.size)[1]
    return sure, np.flatnonzero(~sure & (near | (lacking > 0)[lines]))


def descending(scores: Array) -> Indices:
    """The order that sorts scores downwards, ties by position."""
    if scores.dtype.itemsize == 8 or scores.size > PACKED:  # the reverse of a stable ascending order of the reverse
        return np.asarray(scores.size - 1 - np.argsort(scores[::-1], kind="stable")[::-1])
    if scores.dtype.kind == "f":
        bits = (scores + 0).astype(np.float32, copy=False).view(np.int32)  # adding 0 makes -0.0 equal 0.0
        ascending = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    else:
        ascending = scores.astype(np.int64) - (2**31 if scores.dtype.kind == "u" else 0)
    # value and position in one integer: sorting those is faster than sorting positions by value
    packed = np.sort(((2**31 - 1 - ascending) << 31) | np.arange(scores.size))
    return np.asarray(packed & (2**31 - 1))
