"""The top of every row (a token) or of every column (a feature): as many price searches as lines, all at once.

Here survivors are found; which of them are taken `ranking.finish` decides.

The bracket of a line cannot fail: divide it into groups, and at least k entries reach the k-th largest of their maxima.
Prices of a similar problem give a bracket that costs nothing; lines for which such a hint is too high are bracketed
afresh.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from allocation.arrays import Array, Indices, Mask, true_positions
from allocation.solvers.top_selection.ranking import Selection, finish
from allocation.solvers.top_selection.whole import compact, joined, smallest_positive
from allocation.threads import Block, map_blocks, map_runs

# Survivors of a line worth keeping, in multiples of what is wanted, before its bracket counts as too wide.
WIDE = 4
# Maxima of so many bytes stay in the cache while all rows pass by.
MAXIMA_BYTES = 1 << 21
# Groups per column, fewest first, and the share of them that may be wanted.
COLUMN_GROUPS = (64, 256, 1024)
FILLED = 0.6


def select_rows(ordered: Array, caps: Indices, workers: int | None = None, hint: Array | None = None) -> Selection:
    """The largest `caps[i]` positive entries of every row i; `hint` holds values just below the expected prices."""
    rows, columns = ordered.shape
    caps = np.minimum(caps, columns)

    def selected(run: list[Block]) -> list[Indices]:
        start, stop = run[0][0], run[-1][1]
        flat = _row_survivors(ordered, run, caps + 1, hint)
        values = ordered[start:stop].reshape(-1)[flat]
        best = finish(values, flat, flat // columns, caps[start:stop])
        first = start * columns
        return [best.flat + first, *(np.where(end >= 0, end + first, -1) for end in (best.last, best.refused))]

    parts = map_runs(selected, rows if columns else 0, ordered.nbytes, workers)
    if not parts:
        return Selection(joined([]), np.full(rows, -1), np.full(rows, -1), passes=1)
    flat, last, refused = map(np.concatenate, zip(*parts, strict=True))
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


def _row_survivors(ordered: Array, run: list[Block], wanted: Indices, hint: Array | None) -> Indices:
    """Ascending flat positions, from the run's first row on, of the `wanted[i]` largest of each row, and few more."""
    columns = ordered.shape[1]
    smallest = smallest_positive(ordered.dtype)
    rows = slice(run[0][0], run[-1][1])

    def reaching(start: int, stop: int) -> Mask:
        block = ordered[start:stop]
        at = np.maximum(row_bracket(block, wanted[start:stop]), smallest) if hint is None else hint[start:stop]
        return np.asarray(block >= at[:, None])

    flat = true_positions((reaching(*block) for block in run), int(WIDE * wanted[rows].sum()) + 64 * wanted[rows].size)
    if flat is None:
        if hint is not None:
            return _row_survivors(ordered, run, wanted, None)
        flat, bad = joined([]), np.ones(wanted[rows].size, bool)
    else:
        counts = np.bincount(flat // columns, minlength=wanted[rows].size)
        bad = counts > WIDE * wanted[rows] + 64
        if hint is not None:
            bad |= (counts < wanted[rows]) & (hint[rows] > smallest)
    if not bad.any():
        return flat
    if hint is not None and 2 * np.count_nonzero(bad) > bad.size:
        return _row_survivors(ordered, run, wanted, None)
    survivors = [flat[~bad[flat // columns]]]
    again = np.flatnonzero(bad)
    for some in np.array_split(again, -(-again.size // (run[0][1] - run[0][0]))):
        line, column = np.divmod(_tied_row_survivors(ordered[rows][some], wanted[rows][some]), columns)
        survivors.append(some[line] * columns + column)
    return np.sort(np.concatenate(survivors))


def _tied_row_survivors(block: Array, wanted: Indices) -> Indices:
    """As `_row_survivors` for rows of which many entries may tie at the bracket."""
    at = np.maximum(row_bracket(block, wanted), smallest_positive(block.dtype))
    reaching = block >= at[:, None]
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
    line, column = _first_ties(lines, at, wanted - above)
    strict[line, column] = True
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
    # parts laid over each other, so that neighbours, often alike, fall into different groups; quarters are quickest
    quarter = block.shape[1] // 4
    maxima = block[:, : 4 * quarter].reshape(-1, 4, quarter).max(axis=1)
    layers = 1 << ((quarter // groups).bit_length() - 1)
    width = quarter // layers
    return _ranked(maxima[:, : layers * width].reshape(-1, layers, width).max(axis=1), wanted)


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
    afresh, _ = _column_survivors(ordered[:, again], wanted[again], workers, None)
    row, column_again = np.divmod(afresh, again.size)
    return np.sort(np.concatenate([flat[~failed[column]], row * columns + again[column_again]])), reaching


def _tied_column_survivors(ordered: Array, wanted: Indices, at: Array, workers: int | None) -> Indices:
    """Survivors where whole columns tie at the bracket: all above it, and the first of its equals."""

    def count_above(start: int, stop: int) -> Indices:
        return np.asarray((ordered[start:stop] > at).sum(axis=0, dtype=np.int64))

    strict = compact(ordered, at, workers, strictly=True, most=int(WIDE * wanted.sum()) + 64 * at.size)
    if strict is None:
        above = sum(map_blocks(count_above, ordered.shape[0], ordered.nbytes, workers), np.zeros(at.size, np.int64))
    else:
        above = np.bincount(strict % at.size, minlength=at.size)
    spread = np.flatnonzero(above > WIDE * wanted + 64)
    if spread.size:
        lines = np.ascontiguousarray(ordered[:, spread].T)
        at[spread] = np.maximum(_ranked(lines, wanted[spread]), smallest_positive(ordered.dtype))
        above[spread] = _counts(lines > at[spread, None])
    if strict is None or spread.size:
        strict = compact(ordered, at, workers, strictly=True)
    column, row = _first_ties(ordered.T, at, wanted - above)
    return np.sort(np.concatenate([strict, row * at.size + column]))


def column_bracket(ordered: Array, wanted: Indices, workers: int | None) -> Array:
    """A value per column that at least `wanted` entries reach: few groups where few are wanted."""
    rows, columns = ordered.shape
    at = np.empty(columns, ordered.dtype)
    waiting = np.arange(columns)
    for groups in COLUMN_GROUPS:
        if rows < 4 * groups or not waiting.size:
            continue
        few = wanted[waiting] <= FILLED * groups
        chosen, waiting = waiting[few], waiting[~few]
        if chosen.size:
            part = ordered if chosen.size > columns // 2 else columns_of(ordered, chosen, workers)
            ranks = np.minimum(wanted, groups) if part is ordered else wanted[chosen]
            bracket = _column_maxima_ranked(part, groups, ranks, workers)
            at[chosen] = bracket[chosen] if part is ordered else bracket
    if waiting.size:
        at[waiting] = _ranked(np.ascontiguousarray(ordered[:, waiting].T), wanted[waiting])
    return at


def columns_of(matrix: Array, columns: Indices, workers: int | None) -> Array:
    """Some columns of a matrix, gathered by all threads."""
    gathered = np.empty((matrix.shape[0], columns.size), matrix.dtype)

    def gather(start: int, stop: int) -> None:
        np.take(matrix[start:stop], columns, axis=1, out=gathered[start:stop], mode="clip")  # which writes directly

    map_blocks(gather, gathered.shape[0], gathered.nbytes, workers)
    return gathered


def _column_maxima_ranked(part: Array, groups: int, ranks: Indices, workers: int | None) -> Array:
    """The `ranks[j]`-th largest of the maxima of `groups` groups of rows, in every column j."""
    rows, columns = part.shape

    def ranked(start: int, stop: int) -> Array:
        maxima = part[:groups, start:stop].copy()
        for first in range(groups, rows - groups + 1, groups):
            np.maximum(maxima, part[first : first + groups, start:stop], out=maxima)
        return _ranked(np.ascontiguousarray(maxima.T), ranks[start:stop])

    share = max(1, MAXIMA_BYTES * columns // max(groups * columns * part.itemsize, 1)) * part.nbytes // max(columns, 1)
    return np.concatenate(map_blocks(ranked, columns, part.nbytes, workers, block_bytes=share))


def _first_ties(lines: Array, at: Array, room: Indices) -> tuple[Indices, Indices]:
    """Line and position of the first `room[i]` entries equal to `at[i]` of every line, reading as far as needed."""
    room = np.maximum(room, 0)
    ties: list[tuple[Indices, Indices]] = []
    start, width = 0, 64
    while start < lines.shape[1] and (open_lines := np.flatnonzero(room)).size:
        tied = lines[open_lines, start : start + width] == at[open_lines, None]
        tied &= np.cumsum(tied, axis=1, dtype=np.int64) <= room[open_lines, None]
        line, position = np.nonzero(tied)
        ties.append((open_lines[line], position + start))
        room[open_lines] -= tied.sum(axis=1)
        start, width = start + width, min(2 * width, 4096)
    return joined([line for line, _ in ties]), joined([position for _, position in ties])


def _ranked(block: Array, ranks: Indices) -> Array:
    """The `ranks[i]`-th largest entry of every row, 1 being the largest; the smallest where a row is shorter."""
    if block.shape[0] == 0:
        return block[:, 0]
    position = np.maximum(block.shape[1] - ranks, 0)
    # short rows sort faster than they partition
    ranked = np.sort(block, axis=1) if block.shape[1] <= 1024 else np.partition(block, np.unique(position), axis=1)
    return np.asarray(np.take_along_axis(ranked, position[:, None], axis=1)[:, 0])
