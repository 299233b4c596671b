"""The top of every group where much of it is taken: a price for each, and one bit for every entry.

Where few entries are taken, their positions are few and `whole` and `lines` rank them. Here positions would be larger
than the scores. An entry is taken above its group's price, and at it up to a position in its group, the cut: so ties go
to the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Array, Indices, Mask, Reals, true_positions
from allocation.masked import MaskedMatches
from allocation.scores import DenseScores
from allocation.solvers.top_selection.ranking import Ends
from allocation.solvers.top_selection.whole import SAMPLE, sampled_bracket, smallest_positive
from allocation.threads import map_blocks

# Scores worked on at once: with the positions of half of them, which take as much again, they stay in a core's cache.
BLOCK_BYTES = 1 << 19
# From this share of all entries on, masks are smaller and quicker than positions.
LARGE_SHARE = 1 / 8
# Lines up to this length are sorted, longer ones partitioned.
SORTED = 1024
# Columns that are gathered at once: a cache line of each row.
COLUMNS = 16
# Entries near the price of a whole matrix, as a share of all, that are worth a copy.
NEAR = 1 / 4


@dataclass(frozen=True, eq=False)
class Masked:
    """What is taken, per group its ends, and which groups reach their cap."""

    matches: MaskedMatches
    ends: Ends
    full: Mask


@dataclass(frozen=True, eq=False)
class _Thresholds:
    """Of each line the price, the cut, the best refused (0 if none is positive), and whether it reaches its cap."""

    price: Array
    cut: Indices
    refused: Array
    full: Mask

    @classmethod
    def empty(cls, size: int, kind: np.dtype[Any]) -> _Thresholds:
        return cls(np.empty(size, kind), np.empty(size, np.int64), np.empty(size, kind), np.empty(size, bool))

    def write(self, lines: slice, found: _Thresholds) -> None:
        for name, part in vars(found).items():
            getattr(self, name)[lines] = part


def select_much(matrix: DenseScores, axis: int | None, caps: Indices, workers: int | None) -> Masked:
    """The largest `caps[g]` positive entries of every row (axis 0), of every column (1), or of all."""
    ordered = matrix.ordered
    rows, columns = ordered.shape
    if axis is None:
        found = _of_all(ordered.reshape(-1), int(caps[0]), workers)
        price, cut = found.price[0], int(found.cut[0])
        flat = ordered.reshape(-1)

        def taken(start: int, stop: int) -> Mask:
            mask = flat[start:stop] >= price
            if cut < stop - 1:
                later = slice(max(cut + 1 - start, 0), None)
                mask[later] = flat[start:stop][later] > price
            return np.asarray(mask)

        bits, counts, step = _bits(taken, flat.size, 1, ordered.itemsize, workers)
    elif axis == 0:
        found = _Thresholds.empty(rows, ordered.dtype)

        def taken(start: int, stop: int) -> Mask:
            block = ordered[start:stop]
            own = _of_lines(block, caps[start:stop])
            found.write(slice(start, stop), own)
            mask = block >= own.price[:, None]
            if (tied := np.flatnonzero(own.cut < columns)).size:
                lines = block[tied]
                mask[tied] &= (lines > own.price[tied, None]) | (np.arange(columns) <= own.cut[tied, None])
            return np.asarray(mask)

        bits, counts, step = _bits(taken, rows, columns, ordered.itemsize, workers)
    else:
        found = _of_columns(ordered, caps, workers)
        tied = np.flatnonzero(found.cut < rows)

        def taken(start: int, stop: int) -> Mask:
            block = ordered[start:stop]
            mask = block >= found.price
            if tied.size:
                lines = block[:, tied]
                mask[:, tied] &= (lines > found.price[tied]) | (np.arange(start, stop)[:, None] <= found.cut[tied])
            return np.asarray(mask)

        bits, counts, step = _bits(taken, rows, columns, ordered.itemsize, workers)
    values = _values(matrix, bits, counts, step, workers)
    last = np.where(found.full & (caps > 0), _reals(matrix, found.price), np.inf)
    ends = Ends(last, _reals(matrix, found.refused))
    return Masked(MaskedMatches(bits, values, matrix.shape), ends, found.full)


def _reals(matrix: DenseScores, entries: Array) -> Reals:
    return np.asarray(matrix.widened(entries).astype(np.float64))


def _bits(
    taken: Callable[[int, int], Mask], rows: int, columns: int, itemsize: int, workers: int | None
) -> tuple[NDArray[np.uint8], list[int], int]:
    """The mask `taken(start, stop)` of blocks of rows, eight entries to a byte; matches and entries of each block."""
    step = 8 * max(1, BLOCK_BYTES // max(8 * columns * itemsize, 1))  # so that every block begins a byte
    bits = np.empty(-(-rows * columns // 8), np.uint8)

    def pack(start: int, stop: int) -> int:
        mask = taken(start, stop).reshape(-1)
        bits[start * columns // 8 : -(-stop * columns // 8)] = np.packbits(mask)
        return int(np.count_nonzero(mask))

    blocks = -(-rows // step) if columns else 0
    counts = map_blocks(
        lambda first, last: [pack(at * step, min((at + 1) * step, rows)) for at in range(first, last)],
        blocks, rows * columns * itemsize, workers, BLOCK_BYTES,
    )  # fmt: skip
    return bits, [count for part in counts for count in part], step * columns


def _values(matrix: DenseScores, bits: NDArray[np.uint8], counts: list[int], step: int, workers: int | None) -> Array:
    """The scores where bits are set, from what each block of `step` entries holds."""
    entries = matrix.array.reshape(-1)
    offsets = [0, *accumulate(counts)]
    values = np.empty(offsets[-1], entries.dtype)

    def gather(first: int, last: int) -> None:
        for at in range(first, last):
            block = entries[at * step : (at + 1) * step]
            mask = np.unpackbits(bits[at * step // 8 : -(-(at + 1) * step // 8)], count=block.size).view(np.bool_)
            inside = slice(offsets[at], offsets[at + 1])
            np.take(block, np.flatnonzero(mask), out=values[inside], mode="clip")  # which writes directly

    map_blocks(gather, len(counts), entries.nbytes, workers, BLOCK_BYTES)
    return matrix.widened(values) if matrix.type == "bfloat16" else values


def _of_lines(lines: Array, caps: Indices) -> _Thresholds:
    """The thresholds of the rows of a block."""
    length, kind = lines.shape[1], lines.dtype
    ranks = np.minimum(caps, length)
    if length <= SORTED:
        ranked = np.sort(lines, axis=1)
        numbers = np.arange(len(lines))
        last = ranked[numbers, np.minimum(length - ranks, length - 1)]
        beyond = ranked[numbers, np.maximum(length - ranks - 1, 0)]
    else:
        pairs = [_ranked(line, rank) for line, rank in zip(lines, ranks.tolist(), strict=True)]
        last, beyond = np.array(pairs, kind).T
    zero = kind.type(0)
    refused = np.where(ranks < length, np.maximum(beyond, zero), zero)
    full = (ranks == caps) & ((ranks == 0) | (last > 0))
    price = np.where(ranks > 0, np.maximum(last, smallest_positive(kind)), _largest(kind))
    cut = np.where(ranks > 0, length, -1)
    if (tied := np.flatnonzero((ranks > 0) & (refused == price))).size and length <= SORTED:
        some, at = lines[tied], price[tied, None]
        left = ranks[tied] - (some > at).sum(axis=1)
        cut[tied] = (np.cumsum(some == at, axis=1) < left[:, None]).sum(axis=1)
    else:
        for line in tied:
            cut[line] = _last_of_equal(lines[line], price[line], int(ranks[line] - np.sum(lines[line] > price[line])))
    return _Thresholds(price, cut, refused, full)


def _ranked(line: Array, rank: int) -> tuple[Any, Any]:
    """The last entry taken (the smallest if all or none are) and the best one refused (the largest, if so)."""
    at = min(line.size - rank, line.size - 1)
    ranked = np.partition(line, at)  # at one rank, which vector units do
    return ranked[at], ranked[: at if 0 < rank < line.size else None].max()


def _last_of_equal(line: Array, value: Any, count: int) -> int:
    """Position of the entry equal to `value` that is number `count` of them."""
    start = 0
    while True:
        equal = line[start : start + BLOCK_BYTES] == value
        if (here := int(np.count_nonzero(equal))) >= count:
            return start + int(np.flatnonzero(equal)[count - 1])
        start, count = start + BLOCK_BYTES, count - here


def _of_columns(ordered: Array, caps: Indices, workers: int | None) -> _Thresholds:
    """The thresholds of all columns, some at a time."""
    rows, columns = ordered.shape
    found = _Thresholds.empty(columns, ordered.dtype)
    step = max(COLUMNS, BLOCK_BYTES // max(rows * ordered.itemsize, 1))
    down = max(1, BLOCK_BYTES // (8 * step * ordered.itemsize))

    def search(first: int, last: int) -> None:
        for start in range(first * step, min(last * step, columns), step):
            some = slice(start, min(start + step, columns))
            lines = np.empty((some.stop - start, rows), ordered.dtype)
            for top in range(0, rows, down):  # read in the order of memory
                lines[:, top : top + down] = ordered[top : top + down, some].T
            found.write(some, _of_lines(lines, caps[some]))

    map_blocks(search, -(-columns // step) if rows else 0, ordered.nbytes, workers, BLOCK_BYTES)
    return found


def _of_all(entries: Array, cap: int, workers: int | None) -> _Thresholds:
    """The thresholds of one group: entries near a sampled price are ranked, those above it counted."""
    rank, smallest = min(cap, entries.size), smallest_positive(entries.dtype)
    if entries.size <= SAMPLE or not 0 < rank < entries.size:
        return _of_lines(entries[None], np.array([cap]))
    lower, upper, _ = sampled_bracket(entries, rank)
    n_near = [0]  # threads may miss each other's count for a block or two

    def near(start: int, stop: int) -> tuple[int, Array]:
        block = entries[start:stop]
        above = block > upper
        between = (block >= lower) ^ above
        n_near[0] += int(np.count_nonzero(between))
        found = true_positions([between]) if n_near[0] <= NEAR * entries.size else None
        return int(np.count_nonzero(above)), block[:0] if found is None else block[found]

    parts = map_blocks(near, entries.size, entries.nbytes, workers, BLOCK_BYTES)
    n_above = sum(count for count, _ in parts)
    left, candidates = rank - n_above, np.concatenate([part for _, part in parts])
    if n_near[0] > NEAR * entries.size or left <= 0 or (left >= candidates.size and lower > smallest):
        left, candidates = rank, entries  # the sample misled, or too many are equal
    price, refused, full = smallest, entries.dtype.type(0), cap == rank and left <= candidates.size
    if full:
        price, refused = _ranked(candidates, left)
        full = bool(price > 0)
        price, refused = max(price, smallest), refused if left < candidates.size else 0
    cut = entries.size
    if refused == price:
        cut = _last_of_equal(entries, price, left - int(np.count_nonzero(candidates > price)))
    return _Thresholds(*(np.array([part]) for part in (price, cut, max(refused, 0), full)))


def _largest(kind: np.dtype[Any]) -> Any:
    """An entry that none is above."""
    return kind.type(np.finfo(kind).max if kind.kind == "f" else np.iinfo(kind).max)
