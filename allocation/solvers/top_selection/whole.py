"""The one primitive of every one-sided selection: the largest positive entries of each group, under the group's cap.

A group is the whole matrix (here), a row or a column (`lines`). Selecting its top is a search for a price:

1. *bracket*: a lower end below the price, from a sample or from maxima that cannot fail;
2. *compact*: one pass keeps the positions of entries from the lower end upwards;
3. *finish*: exact selection among the few survivors, ties to the smaller index (`ranking.finish`);
4. *check*: a group with too few survivors, or too many to keep, gets a better bracket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import numpy as np

from allocation.arrays import Array, Indices, Mask, true_positions
from allocation.solvers.top_selection.ranking import Selection, finish
from allocation.threads import Block, map_blocks, map_runs

# Entries sampled to bracket the price of a whole matrix.
SAMPLE = 1 << 16
# From so many entries certain to be taken, they are set aside before the survivors are ranked.
LARGE = 1 << 20


def select_whole(ordered: Array, cap: int, workers: int | None = None, hint: Array | None = None) -> Selection:
    """The largest `cap` positive entries of the matrix, as one group; `hint` is just below the expected price."""
    entries = ordered.reshape(-1)
    cap = min(cap, entries.size)
    if hint is not None and entries.size > SAMPLE:
        flat = compact(entries, hint, workers, most=3 * cap + SAMPLE)
        if flat is not None and flat.size > cap:
            return finish(entries[flat], flat, None, np.array([cap]))
    lower = upper = smallest_positive(ordered.dtype)
    passes, wide = 1, False
    if entries.size > SAMPLE:
        lower, upper, wide = sampled_bracket(entries, cap)
        if wide:  # many entries equal to the lower end: it is the price itself, or just below it
            passes += 1
            above, reaching = _counts(entries, lower, workers)
            if above <= cap <= reaching:
                return _select_at(entries, lower, cap, workers, passes + 1)
            if reaching < cap:
                return _select_at(entries, _partitioned_price(entries, cap), cap, workers, passes + 2)
    flat = compact(entries, lower, workers, strictly=wide)
    if flat.size <= cap and lower > smallest_positive(ordered.dtype):  # the sample misled: find the price in a copy
        return _select_at(entries, _partitioned_price(entries, cap), cap, workers, passes + 2)
    values = entries[flat]
    sure = values > upper
    n_sure = int(np.count_nonzero(sure))
    if n_sure < LARGE or n_sure >= cap:
        return finish(values, flat, None, np.array([cap]), passes)
    middle = finish(values[~sure], flat[~sure], None, np.array([cap - n_sure]), passes)
    sure[np.searchsorted(flat, middle.flat)] = True
    return Selection(flat[sure], middle.last, middle.refused, passes)


@overload
def compact(
    entries: Array, lower: Any, workers: int | None = ..., *, strictly: bool = ..., before: Callable[[], object] = ...
) -> Indices: ...
@overload
def compact(
    entries: Array, lower: Any, workers: int | None = ..., *, strictly: bool = ..., most: int | None,
    before: Callable[[], object] = ...,
) -> Indices | None: ...  # fmt: skip
def compact(
    entries: Array, lower: Any, workers: int | None = None, *, strictly: bool = False, most: int | None = None,
    before: Callable[[], object] = lambda: None,
) -> Indices | None:  # fmt: skip
    """Ascending flat positions of the entries from `lower` upwards, or strictly above it.

    `lower` may be one per column, or a column with one per row. None as soon as there are more than `most`. `before` is
    called before every block.
    """
    reaches = np.greater if strictly else np.greater_equal
    stride = entries.size // max(entries.shape[0], 1)
    n_survivors = [0]  # threads may miss each other's count for a run or two, which only delays the stop

    def mask(start: int, stop: int) -> Mask:
        before()
        return np.asarray(reaches(entries[start:stop], lower[start:stop] if np.ndim(lower) == 2 else lower))

    def survivors(run: list[Block]) -> Indices | None:
        room = None if most is None else most - n_survivors[0]
        flat = true_positions((mask(*block) for block in run), room)
        if flat is not None:
            flat += run[0][0] * stride
        n_survivors[0] += entries.size if flat is None else flat.size
        return flat

    parts = map_runs(survivors, entries.shape[0], entries.nbytes, workers)
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts) or (most is not None and sum(part.size for part in whole) > most):
        return None
    return joined(whole)


def smallest_positive(dtype: np.dtype[Any]) -> Any:
    """The least value above 0 of a number type."""
    return np.nextafter(dtype.type(0), dtype.type(1)) if dtype.kind == "f" else dtype.type(1)


def sampled_bracket(entries: Array, cap: int) -> tuple[Any, Any, bool]:
    """Two values that very likely enclose the cap-th and the next entry, and whether too many reach the lower one."""
    # steps of the golden ratio visit the matrix evenly and share no period with its rows
    steps = np.arange(SAMPLE, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    positions = ((steps >> np.uint64(32)) * np.uint64(entries.size)) >> np.uint64(32)
    if entries.size >= 1 << 32:
        positions = np.multiply(steps >> np.uint64(11), 2.0**-53 * entries.size).astype(np.int64)
    return bracket_of_sample(entries[positions], cap, entries.size)


def sample_of(entries: Array, size: int) -> Array:
    """About so many entries from all over a matrix, or all."""
    if size >= entries.size:
        return entries
    steps = np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray(entries[np.multiply(steps >> np.uint64(11), 2.0**-53 * entries.size).astype(np.int64)])


def bracket_of_sample(sample: Array, cap: int, n_entries: int) -> tuple[Any, Any, bool]:
    """The same from a sample of so many entries."""
    sample, size = np.sort(sample)[::-1], sample.size
    rank = (cap + 1) * size / n_entries
    margin = 4.0 * np.sqrt(rank * max(1.0 - rank / size, 0.0)) + 8.0
    smallest = smallest_positive(sample.dtype)
    last = int(rank + margin)
    lower = max(sample[last], smallest) if last < size else smallest
    first = int(rank - margin)
    upper = max(sample[first], lower) if 0 <= first < size else sample[0]
    reaching = size - np.searchsorted(sample[::-1], lower)
    return lower, max(upper, lower), bool(reaching > 1.5 * (rank + margin) and lower > smallest)


def _counts(entries: Array, value: Any, workers: int | None) -> tuple[int, int]:
    """How many entries lie above `value`, and from it upwards."""

    def count(start: int, stop: int) -> tuple[int, int]:
        block = entries[start:stop]
        return int(np.count_nonzero(block > value)), int(np.count_nonzero(block >= value))

    counts = map_blocks(count, entries.size, entries.nbytes, workers)
    return sum(above for above, _ in counts), sum(reaching for _, reaching in counts)


def _partitioned_price(entries: Array, cap: int) -> Any:
    """The cap-th largest entry, or the smallest positive value where fewer are positive: a copy and a partition."""
    rank = entries.size - max(cap, 1)
    return max(np.partition(entries, rank)[rank], smallest_positive(entries.dtype))


def _select_at(entries: Array, price: Any, cap: int, workers: int | None, passes: int) -> Selection:
    """Selection at a known price: all above it and the first of those equal to it."""
    above = compact(entries, price, workers, strictly=True)
    wanted = cap - above.size
    tied = _first_equal(entries, price, wanted + 1)
    flat = np.sort(np.concatenate([above, tied[:wanted]]))
    last = tied[:wanted][-1:]
    if not last.size and above.size:
        last = above[entries[above] == entries[above].min()][-1:]
    refused = tied[wanted : wanted + 1]
    if not refused.size:
        refused = _first_best_below(entries, price, workers)
    ends = [end if end.size else np.array([-1]) for end in (last, refused)]
    return Selection(flat, ends[0], ends[1], passes)


def _first_equal(entries: Array, value: Any, count: int) -> Indices:
    """Positions of the first `count` entries equal to `value`."""
    equals: list[Indices] = []
    step = 1 << 18
    for start in range(0, entries.size, step):
        equals.append(start + np.flatnonzero(entries[start : start + step] == value)[:count])
        count -= equals[-1].size
        if count <= 0:
            break
    return joined(equals)


def _first_best_below(entries: Array, value: Any, workers: int | None) -> Indices:
    """Position of the largest positive entry below `value`, the first of equals; empty if there is none."""

    def best(start: int, stop: int) -> tuple[Any, int]:
        block = entries[start:stop]
        below = np.where(block < value, block, block.dtype.type(0))
        position = int(below.argmax())
        return below[position], -(start + position)

    highest = max(map_blocks(best, entries.size, entries.nbytes, workers), default=(0, 0))
    return np.array([-highest[1]]) if highest[0] > 0 else np.empty(0, np.int64)


def joined(parts: list[Indices]) -> Indices:
    """Positions found block by block, in one vector."""
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
