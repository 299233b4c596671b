"""The top of every row or of every column: as many price searches as lines, all at once.

The bracket of a line cannot fail: divide it into groups, and at least k entries reach the k-th largest of their maxima.
Prices of a similar problem give a bracket that costs nothing; lines for which such a hint is too high are bracketed
afresh.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from allocation.scores import Indices
from allocation.solvers.price_search import Array, Selection, compact, finish, joined, smallest_positive
from allocation.threads import BLOCK_BYTES, map_blocks

Mask: TypeAlias = NDArray[np.bool_]

# Survivors of a line worth keeping, in multiples of what is wanted, before its bracket counts as too wide.
WIDE = 4
# Rows are ranked in so many runs, which threads share.
RUNS = 8
# Groups per column, fewest first, and the share of them that may be wanted.
COLUMN_GROUPS = (64, 256, 1024)
FILLED = 0.6


def select_rows(ordered: Array, caps: Indices, workers: int | None = None, hint: Array | None = None) -> Selection:
    """The largest `caps[i]` positive entries of every row i; `hint` holds values just below the expected prices."""
    rows, columns = ordered.shape
    caps = np.minimum(caps, columns)

    def survivors(start: int, stop: int) -> tuple[Indices, Array]:
        block, at = ordered[start:stop], None if hint is None else hint[start:stop]
        flat = _row_survivors(block, caps[start:stop] + 1, at)
        return start * columns + flat, block.reshape(-1)[flat]

    found = map_blocks(survivors, rows if columns else 0, ordered.nbytes, workers)
    flat = joined([part for part, _ in found])
    values = np.concatenate([ordered.reshape(-1)[:0], *(part for _, part in found)])

    def finished(start: int, stop: int) -> Selection:
        inside = slice(*np.searchsorted(flat, [start * columns, stop * columns]))
        return finish(values[inside], flat[inside], flat[inside] // columns - start, caps[start:stop])

    if not flat.size:
        return finish(values, flat, flat, caps)
    parts = map_blocks(finished, rows, ordered.nbytes, workers, block_bytes=max(ordered.nbytes // RUNS, BLOCK_BYTES))
    flat, last, refused = (joined([getattr(part, name) for part in parts]) for name in ("flat", "last", "refused"))
    return Selection(flat, last, refused, passes=1)


def select_columns(ordered: Array, caps: Indices, workers: int | None = None, hint: Array | None = None) -> Selection:
    """The largest `caps[j]` positive entries of every column j; `hint` holds values just below the expected prices."""
    rows, columns = ordered.shape
    caps = np.minimum(caps, rows)
    flat, reaching = np.empty(0, np.int64), None
    if ordered.size:
        flat, reaching = _column_survivors(ordered, caps + 1, workers, hint)
    best = finish(ordered.reshape(-1)[flat], flat, flat % max(columns, 1), caps, passes=1 if hint is not None else 2)
    return replace(best, reaching=reaching)


def _row_survivors(block: Array, wanted: Indices, at: Array | None = None) -> Indices:
    """Ascending flat positions that hold the `wanted[i]` largest positive entries of every row, and few more."""
    rows, columns = block.shape
    smallest = smallest_positive(block.dtype)
    hinted = at is not None
    at = np.maximum(row_bracket(block, wanted), smallest) if at is None else at.copy()
    reaching = block >= at[:, None]
    if np.count_nonzero(reaching) <= WIDE * wanted.sum() + 64 * rows:
        flat = np.flatnonzero(reaching)
        counts = np.bincount(flat // columns, minlength=rows)
        failed = (counts < wanted) & (at > smallest)
        if not hinted or not failed.any():
            wide = counts > WIDE * wanted + 64
            return flat if not wide.any() else _without_surplus(block, wanted, at, reaching, wide)
        again = np.flatnonzero(failed)
        line, place = np.divmod(_row_survivors(block[again], wanted[again]), columns)
        return np.sort(np.concatenate([flat[~failed[flat // columns]], again[line] * columns + place]))
    if hinted:
        return _row_survivors(block, wanted)
    return _without_surplus(block, wanted, at, reaching, _counts(reaching) > WIDE * wanted + 64)


def _without_surplus(block: Array, wanted: Indices, at: Array, reaching: Mask, wide: Mask) -> Indices:
    """Survivors where `wide` rows have too many: all above the bracket, and of its equals only the first wanted."""
    rows: Any = slice(None) if wide.all() else np.flatnonzero(wide)
    lines, at, wanted = block[rows], at[rows], wanted[rows]
    strict = lines > at[:, None]
    above = _counts(strict)
    spread = np.flatnonzero(above > WIDE * wanted + 64)
    if spread.size:  # not ties but a bracket far too low: the exact price
        at[spread] = np.maximum(_ranked(lines[spread], wanted[spread]), smallest_positive(block.dtype))
        strict[spread] = lines[spread] > at[spread, None]
        above[spread] = _counts(strict[spread])
    line, place = _first_ties(lines, at, wanted - above)
    strict[line, place] = True
    reaching[rows] = strict
    return np.flatnonzero(reaching)


def _counts(mask: Mask) -> Indices:
    """True entries of every row; NumPy counts a long row at once faster than along an axis."""
    if mask.shape[1] < 512:
        return np.asarray(mask.sum(axis=1))
    return np.array([np.count_nonzero(row) for row in mask])


def row_bracket(block: Array, wanted: Indices) -> Array:
    """A value per row that at least `wanted` entries reach; the exact one where so many are wanted."""
    groups = 4 * int(wanted.max(initial=1))
    if block.shape[1] < 4 * groups:
        return _ranked(block, wanted)
    # halves laid over each other until few groups are left: neighbours, often alike, fall into different ones
    half = block.shape[1] // 2
    maxima = np.maximum(block[:, :half], block[:, half : 2 * half])
    while (half := half // 2) >= 2 * groups:
        maxima = np.maximum(maxima[:, :half], maxima[:, half : 2 * half], out=maxima[:, :half])
    return _ranked(maxima, wanted)


def _column_survivors(
    ordered: Array, wanted: Indices, workers: int | None, hint: Array | None
) -> tuple[Indices, Indices | None]:
    """As `_row_survivors` for columns, read in the order in which the rows lie in memory.

    With a hint that was not too low, also how many entries of every column reach it.
    """
    columns = ordered.shape[1]
    smallest = smallest_positive(ordered.dtype)
    at = column_bracket(ordered, wanted, workers) if hint is None else hint
    at = np.maximum(at, smallest)
    flat = compact(ordered, at, workers, most=int(WIDE * wanted.sum()) + 64 * columns)
    if flat is None:
        if hint is not None:
            return _column_survivors(ordered, wanted, workers, None)
        return _tied_column_survivors(ordered, wanted, at, workers), None
    if hint is None:
        return flat, None
    column = flat % columns
    reaching = np.bincount(column, minlength=columns)
    failed = (reaching < wanted) & (at > smallest)
    if not failed.any():
        return flat, reaching
    if np.count_nonzero(failed) > columns // 4:
        return _column_survivors(ordered, wanted, workers, None)[0], reaching
    again = np.flatnonzero(failed)
    found, _ = _column_survivors(ordered[:, again], wanted[again], workers, None)
    row, place = np.divmod(found, again.size)
    return np.sort(np.concatenate([flat[~failed[column]], row * columns + again[place]])), reaching


def _tied_column_survivors(ordered: Array, wanted: Indices, at: Array, workers: int | None) -> Indices:
    """Survivors where whole columns tie at the bracket: all above it, and the first of its equals."""

    def count_above(start: int, stop: int) -> Indices:
        return np.asarray((ordered[start:stop] > at).sum(axis=0, dtype=np.int64))

    above = sum(map_blocks(count_above, ordered.shape[0], ordered.nbytes, workers), np.zeros(at.size, np.int64))
    spread = np.flatnonzero(above > WIDE * wanted + 64)
    if spread.size:
        lines = np.ascontiguousarray(ordered[:, spread].T)
        at[spread] = np.maximum(_ranked(lines, wanted[spread]), smallest_positive(ordered.dtype))
        above[spread] = _counts(lines > at[spread, None])
    strict = compact(ordered, at, workers, strictly=True)
    line, place = _first_ties(ordered.T, at, wanted - above)
    return np.sort(np.concatenate([strict, place * at.size + line]))


def column_bracket(ordered: Array, wanted: Indices, workers: int | None) -> Array:
    """A value per column that at least `wanted` entries reach: few groups where few are wanted."""
    rows, columns = ordered.shape
    at = np.empty(columns, ordered.dtype)
    left = np.arange(columns)
    for groups in COLUMN_GROUPS:
        if rows < 4 * groups or not left.size:
            continue
        few = wanted[left] <= FILLED * groups
        chosen, left = left[few], left[~few]
        if chosen.size:
            part = ordered if chosen.size > columns // 2 else ordered[:, chosen]
            ranks = np.minimum(wanted, groups) if part is ordered else wanted[chosen]
            bracket = _column_maxima_ranked(part, groups, ranks, workers)
            at[chosen] = bracket[chosen] if part is ordered else bracket
    if left.size:
        at[left] = _ranked(np.ascontiguousarray(ordered[:, left].T), wanted[left])
    return at


def _column_maxima_ranked(part: Array, groups: int, ranks: Indices, workers: int | None) -> Array:
    """The `ranks[j]`-th largest of the maxima of `groups` groups of rows, in every column j."""
    rows, columns = part.shape

    def ranked(start: int, stop: int) -> Array:
        maxima = part[:groups, start:stop].copy()
        for first in range(groups, rows - groups + 1, groups):
            np.maximum(maxima, part[first : first + groups, start:stop], out=maxima)
        return _ranked(np.ascontiguousarray(maxima.T), ranks[start:stop])

    # the maxima of one block of columns stay in the cache while all rows pass by
    share = max(1, BLOCK_BYTES * columns // max(groups * columns * part.itemsize, 1)) * part.nbytes // max(columns, 1)
    return np.concatenate(map_blocks(ranked, columns, part.nbytes, workers, block_bytes=share))


def _first_ties(lines: Array, at: Array, room: Indices) -> tuple[Indices, Indices]:
    """Line and place of the first `room[i]` entries equal to `at[i]` in every line, reading no further than needed."""
    room = np.maximum(room, 0)
    found: list[tuple[Indices, Indices]] = []
    start, width = 0, 64
    while start < lines.shape[1] and (open_lines := np.flatnonzero(room)).size:
        tied = lines[open_lines, start : start + width] == at[open_lines, None]
        tied &= np.cumsum(tied, axis=1, dtype=np.int64) <= room[open_lines, None]
        line, place = np.nonzero(tied)
        found.append((open_lines[line], place + start))
        room[open_lines] -= tied.sum(axis=1)
        start, width = start + width, min(2 * width, 4096)
    return joined([line for line, _ in found]), joined([place for _, place in found])


def _ranked(block: Array, ranks: Indices) -> Array:
    """The `ranks[i]`-th largest entry of every row, 1 being the largest; the smallest where a row is shorter."""
    if block.shape[0] == 0:
        return block[:, 0]
    position = np.maximum(block.shape[1] - ranks, 0)
    # short rows sort faster than they partition
    ranked = np.sort(block, axis=1) if block.shape[1] <= 1024 else np.partition(block, np.unique(position), axis=1)
    return np.asarray(np.take_along_axis(ranked, position[:, None], axis=1)[:, 0])
