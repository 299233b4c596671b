"""Cache-sized blocks of rows, worked on by a few threads: NumPy releases the interpreter lock inside its loops."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeAlias, TypeVar

from allocation.errors import InvalidProblemError

T = TypeVar("T")
Block: TypeAlias = tuple[int, int]

# A block must stay in cache between the passes made over it, and be large enough to outweigh the calls.
BLOCK_BYTES = 3 << 20
# A run of blocks is bounded too, for what is found in it.
RUN_BYTES = 1 << 26
# Entries that passes in float64 hold at once where nothing says otherwise.
BLOCK_ENTRIES = 1 << 17
# Below this size handing work over costs more than it saves.
SERIAL_BYTES = 1 << 22
# Threads at most, where the machine has fewer cores.
MOST_THREADS = 64


def map_blocks(
    work: Callable[[int, int], T],
    rows: int,
    nbytes: int,
    workers: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> list[T]:
    """`[work(start, stop), ...]` over consecutive blocks of `rows`, in order, `nbytes` in all.

    Blocks fit in a core's cache and run on threads: for work that NumPy does outside the interpreter's lock.

    Parameters
    ----------
    work : callable (start, stop) -> anything
    rows, nbytes : int
        Rows in all, and the bytes they take.
    workers : int, optional
        Threads; all available cores by default.
    block_bytes : int
        Size of a block.

    Examples
    --------
    >>> import allocation as al, numpy as np
    >>> scores = np.arange(6.0).reshape(3, 2)
    >>> al.map_blocks(lambda start, stop: scores[start:stop].max(), len(scores), scores.nbytes)
    [np.float64(5.0)]
    """
    parts = map_runs(lambda run: [work(*block) for block in run], rows, nbytes, workers, block_bytes)
    return [result for part in parts for result in part]


def map_runs(
    work: Callable[[list[Block]], T],
    rows: int,
    nbytes: int,
    workers: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> list[T]:
    """`[work([(start, stop), ...]), ...]` over runs of such blocks: for work that goes on with what its blocks gave."""
    if workers is not None and workers < 1:
        raise InvalidProblemError(f"workers: expected 1 or more, found {workers}")
    if rows == 0:
        return []
    step = max(1, block_bytes * rows // max(nbytes, 1))
    blocks = [(start, min(start + step, rows)) for start in range(0, rows, step)]
    workers = available_cores() if workers is None else workers
    if nbytes < SERIAL_BYTES:
        workers = 1
    # a few runs per thread: one task per block would spend its time handing over the lock
    share = min(-(-len(blocks) // (2 * workers)), max(1, RUN_BYTES // block_bytes))
    runs = [blocks[first : first + share] for first in range(0, len(blocks), share)]
    if workers == 1 or len(runs) == 1:
        return [work(run) for run in runs]
    return _together(work, runs, workers - 1)


def _together(work: Callable[[list[Block]], T], runs: list[list[Block]], helpers: int) -> list[T]:
    """What `work` gives for every run: this thread takes one after the other, and so do its helpers, if they come.

    Threads that stay, and are not waited for until they have taken a run, save the time in which they would start:
    where all cores are at work, as those of torch are for some milliseconds after an operation, that is longer than
    a pass over the scores.
    """
    results: dict[int, T] = {}
    failures: dict[int, BaseException] = {}
    left = iter(enumerate(runs))

    def take_runs() -> None:
        for number, run in left:  # the next that nobody has taken
            try:
                results[number] = work(run)
            except BaseException as failure:
                failures[number] = failure
            if failures:  # what comes before the first of them has been taken
                return

    started: list[Future[None]] = []
    try:
        with contextlib.suppress(RuntimeError):  # no thread can be started any more: fewer help, or none
            started.extend(_pool().submit(take_runs) for _ in range(min(helpers, len(runs) - 1)))
        take_runs()
    finally:
        for _ in left:  # nobody takes another
            pass
        running = [helper for helper in started if not helper.cancel()]
        try:
            wait(running)
        except BaseException:  # an interrupt: what has been taken comes to its end first
            wait(running)
            raise
    if failures:
        first = failures[min(failures)]
        failures.clear()
        try:
            raise first
        finally:
            del first  # which would keep itself, and the scores, by way of its traceback
    return [results[number] for number in range(len(runs))]


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Threads that wait for work, started when there are too few; they help any caller, helpers too."""
    return ThreadPoolExecutor(max(MOST_THREADS, available_cores()), thread_name_prefix="allocation")


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def rows_per_block(columns: int, entries: int = BLOCK_ENTRIES) -> int:
    """Rows of so many columns that hold about so many entries; at least one."""
    return max(1, entries // max(columns, 1))


def available_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
