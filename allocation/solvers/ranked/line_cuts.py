"""The price of every token, or of every feature, whose entries lie on several ranks: the last match that its cap takes.

Each rank offers its share of a line's best entries, which bounds the line's price from below; then what else it has
above that bound, and how many entries equal to it. So little more than the cap crosses for every line, however many
ranks there are, and ties are settled by counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Array, Indices, Mask, Reals
from allocation.solvers.ranked.layout import Layout, gathered


@dataclass(frozen=True, eq=False)
class LineCuts:
    """Where the cap of every line ends.

    Attributes
    ----------
    taken : (candidates,) bool
        Which of this rank's candidates are within the caps.
    counts : (lines,) int64
        How many are, of all ranks.
    last, refused : (lines,) float64
        The last entry taken, +inf where none is, and the best refused, 0 where none is offered.
    """

    taken: Mask
    counts: Indices
    last: Reals
    refused: Reals


def descending(values: Array) -> Array:
    """Numbers that ascend where the scores descend."""
    return ~values if values.dtype.kind in "iu" else -(values + values.dtype.type(0))  # -0.0 equals 0.0


def in_line_order(lines: Indices, values: Array) -> Indices:
    """The order of candidates, given in edge order, by line, the best first, of equals the first."""
    if values.dtype.itemsize > 4 or (lines.size and int(lines.max()) >= 1 << 31):
        return np.lexsort((descending(values), lines))
    # one sort of 64 bits is several times quicker than two stable ones, and leaves few equals to put right
    keys = (lines.astype(np.uint64) << np.uint64(32)) | _descending_bits(values)
    order = np.argsort(keys)
    ranked = keys[order]
    same = ranked[1:] == ranked[:-1]
    if same.any():
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        order[tied] = order[tied][np.lexsort((order[tied], ranked[tied]))]
    return np.asarray(order)


def _descending_bits(values: Array) -> NDArray[np.uint64]:
    """32 bits that ascend where numbers of at most so many descend."""
    if values.dtype.kind == "f":
        bits = (values + values.dtype.type(0)).astype(np.float32).view(np.int32).astype(np.int64)  # -0.0 equals 0.0
        ascending = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    else:
        ascending = values.astype(np.int64)
    low = -(1 << 31) if values.dtype.kind != "u" else 0
    return np.asarray((1 << 32) - 1 - (ascending - low)).astype(np.uint64)


def places_in_lines(lines: Indices, n_lines: int) -> Indices:
    """The place of each candidate within its line, from 0; candidates of a line follow one another, lines ascend."""
    counts = np.bincount(lines, minlength=n_lines)
    return np.arange(lines.size) - np.repeat(np.cumsum(counts) - counts, counts)


def line_cuts(layout: Layout, axis: int, lines: Indices, values: Array, caps: Indices) -> LineCuts:
    """Where the caps of this rank's lines end, of which it offers its best `cap + 1` each, in line order.

    Every rank has to call it if one does.
    """
    sharing = layout.same_lines(axis)
    cut = layout.is_cut(axis)
    n_lines = caps.size
    place = places_in_lines(lines, n_lines)
    first = -(-(caps + 1) // sharing.size)  # of each line, so many from every rank
    early = place < first[lines]
    head = np.bincount(lines[early], minlength=n_lines)[None]
    offers = _exchanged(layout, sharing, head, values[early]) if cut else [(head, values[early])]
    bound, bounded = _ranked(offers, caps, n_lines, values.dtype)
    # what lies above the bound and has not been offered; all where there is no bound
    more = ~early & (~bounded[lines] | (values > bound[lines]))
    equal = bounded[lines] & (values == bound[lines])
    head = np.stack([np.bincount(lines[some], minlength=n_lines) for some in (more, equal)])
    others = _exchanged(layout, sharing, head, values[more]) if cut else [(head, values[more])]
    by_rank = [_Offer.joined(one, other, bound, bounded) for one, other in zip(offers, others, strict=True)]
    return _cuts(by_rank, int(np.flatnonzero(sharing == layout.ranks.index)[0]), lines, values, caps, bound)


@dataclass(frozen=True, eq=False)
class _Offer:
    """What one rank has of each line: values, and how many entries equal to the line's bound beside them."""

    lines: Indices
    values: Array
    ties: Indices

    @classmethod
    def joined(cls, first: tuple[Array, Array], second: tuple[Array, Array], bound: Array, bounded: Mask) -> _Offer:
        (early, early_values), ((more, ties), more_values) = first, second
        n_lines = bound.size
        lines = np.concatenate([np.repeat(np.arange(n_lines), early[0]), np.repeat(np.arange(n_lines), more)])
        values = np.concatenate([early_values, more_values])
        above = ~bounded[lines] | (values > bound[lines])
        return cls(lines[above], values[above], ties)


def _exchanged(layout: Layout, sharing: Indices, counts: Indices, values: Array) -> list[tuple[Array, Array]]:
    """The numbers for each line, and the values, of the ranks that share the lines."""
    head = counts.astype(np.int32).reshape(-1).view(np.uint8)
    parts = gathered(layout, np.concatenate([head, np.ascontiguousarray(values).view(np.uint8)]), sharing)
    return [
        (part[: head.size].view(np.int32).reshape(counts.shape).astype(np.int64), part[head.size :].view(values.dtype))
        for part in (np.array(part) for part in parts)  # aligned
    ]


def _ranked(
    offers: list[tuple[Array, Array]], caps: Indices, n_lines: int, kind: np.dtype[np.generic]
) -> tuple[Array, Mask]:
    """The `cap + 1`-th best of all offers of each line, and whether there are so many."""
    lines = np.concatenate([np.repeat(np.arange(n_lines), counts[0]) for counts, _ in offers])
    values = np.concatenate([values for _, values in offers])
    order = in_line_order(lines, values)
    sizes = np.bincount(lines, minlength=n_lines)
    starts = np.cumsum(sizes) - sizes
    enough = sizes > caps
    bound = np.zeros(n_lines, kind)
    bound[enough] = values[order][starts[enough] + caps[enough]]
    return bound, enough


def _cuts(offers: list[_Offer], own: int, lines: Indices, values: Array, caps: Indices, bound: Array) -> LineCuts:
    """Which of a rank's candidates are taken, from the offers of all, in the order in which ties are settled."""
    n_lines = caps.size
    all_lines = np.concatenate([offer.lines for offer in offers])
    all_values = np.concatenate([offer.values for offer in offers])
    order = in_line_order(all_lines, all_values)
    ranked = all_values[order]
    above = np.bincount(all_lines, minlength=n_lines)  # offers above the bound, where there is one
    starts = np.cumsum(above) - above
    ties = np.stack([offer.ties for offer in offers])
    taken_in_all = np.minimum(caps, above + ties.sum(axis=0))

    def at(rank: Indices, absent: float) -> Reals:
        """The entry of each line of a rank from 0; the bound beyond those above it."""
        reals = np.full(n_lines, absent)
        inside, tied = (rank >= 0) & (rank < above), (rank >= above) & (rank < above + ties.sum(axis=0))
        reals[inside] = ranked[starts[inside] + rank[inside]].astype(np.float64)
        reals[tied] = bound[tied].astype(np.float64)
        return reals

    last, refused = at(taken_in_all - 1, np.inf), at(taken_in_all, 0.0)
    # the last value of each line in its own type, and how many of its equals are taken
    price = np.zeros(n_lines, values.dtype)
    within, at_bound = (taken_in_all > 0) & (taken_in_all <= above), taken_in_all > above
    price[within] = ranked[starts[within] + taken_in_all[within] - 1]
    price[at_bound] = bound[at_bound]
    better = np.bincount(all_lines[all_values > price[all_lines]], minlength=n_lines)
    equals = np.stack([np.bincount(o.lines[o.values == price[o.lines]], minlength=n_lines) for o in offers])
    equals = np.where(at_bound, ties, equals)
    share = np.clip(taken_in_all - better - (np.cumsum(equals, axis=0) - equals)[own], 0, equals[own])
    some = taken_in_all > 0
    taken = some[lines] & (values > price[lines])
    level = np.flatnonzero(some[lines] & (values == price[lines]))
    place = places_in_lines(lines[level], n_lines)
    taken[level[place < share[lines[level]]]] = True
    return LineCuts(taken, taken_in_all, last, refused)
